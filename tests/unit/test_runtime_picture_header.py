"""A picture's size out of its first bytes: what a decoder would see, or a refusal."""

from __future__ import annotations

import base64
import io
import struct
import warnings
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.sample_pictures import animate, build_chunk, build_png_bomb, encode
from qwenvl_runtime.picture_header import Base64Source, Header, PictureError, read_header

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}), ("PNG", {"optimize": True}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ("JPEG", {"exif": b"Exif\0\0" + b"x" * 60000, "icc_profile": b"y" * 200_000}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0" + b"x" * 500}),
    ("WEBP", {"lossless": True, "icc_profile": b"y" * 99}),
]  # fmt: skip
SAMPLES = [encode(form, 61, 47, **options) for form, options in KINDS]


def read(data: bytes) -> Header:
    return read_header(Base64Source(base64.b64encode(data).decode()))


@pytest.mark.parametrize(("form", "options"), KINDS)
@pytest.mark.parametrize("size", [(1, 1), (640, 480), (3, 2000)])
def test_the_size_is_what_a_decoder_sees(form: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    assert read(encode(form, *size, **options)) == (f"image/{form.lower()}", *size)


@pytest.mark.parametrize("data", SAMPLES)
def test_a_picture_that_is_cut_anywhere_is_refused(data: bytes) -> None:
    for length in {*range(1, min(len(data), 400)), *range(1, len(data), 97), len(data) - 1}:
        with pytest.raises(PictureError):
            read(data[:length])


@given(st.sampled_from(SAMPLES), st.data())
def test_damage_never_hides_the_size_from_us_and_shows_it_to_the_decoder(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample)
    for place in data.draw(st.lists(st.integers(0, min(len(sample) - 1, 700)), max_size=3)):
        damaged[place] = data.draw(st.integers(0, 255))
    with suppress(PictureError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = read(bytes(damaged))
        with suppress(OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError):
            picture = Image.open(io.BytesIO(damaged), formats=["PNG", "JPEG", "WEBP"])
            # With an orientation that damage made, or in a broken file, nothing else counts than that it is not larger.
            assert picture.size[0] * picture.size[1] <= seen.width * seen.height


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBP"]))
def test_no_bytes_break_it(noise: bytes, begin: bytes) -> None:
    with suppress(PictureError):
        read(begin + noise)


@given(st.text(max_size=200))
def test_no_text_breaks_it(text: str) -> None:
    with suppress(PictureError):
        read_header(Base64Source(text))


def test_what_stands_after_the_end_does_not_matter() -> None:
    assert read(encode("JPEG") + b"trailer" * 1000).width == 64
    assert read(encode("PNG") + b"\0" * 50).width == 64
    film = b"film" * 50_000
    assert read(encode("JPEG") + film).width == 64
    with pytest.raises(PictureError, match="truncated"):
        read(encode("JPEG")[:-2] + film)


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_animated_pictures_are_refused(form: str) -> None:
    with pytest.raises(PictureError, match="animated"):
        read(animate(form))


def test_a_second_size_is_refused() -> None:
    png = build_png_bomb(8, 8)
    large = build_chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    with pytest.raises(PictureError, match="malformed PNG"):
        read(png[:33] + large + png[33:])
    jpeg = encode("JPEG")
    scan = jpeg.index(b"\xff\xda")
    frame = jpeg.index(b"\xff\xc0")
    with pytest.raises(PictureError, match="two sizes"):
        read(jpeg[:scan] + jpeg[frame : frame + 19] + jpeg[scan:])


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(PictureError, match="is none of"):
        read(encode(form))


def test_a_bomb_is_read_like_any_other() -> None:
    assert read(build_png_bomb(50_000, 50_000)) == ("image/png", 50_000, 50_000)
    with pytest.raises(PictureError, match="no size"):
        read(build_png_bomb(0, 50))
