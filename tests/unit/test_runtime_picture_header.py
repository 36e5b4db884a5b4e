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

from harness.sample_pictures import animate, build_chunk, build_lookalikes, build_png_bomb, encode
from qwenvl_runtime.lookalikes import find_lookalike
from qwenvl_runtime.picture_header import Header, read_header
from qwenvl_runtime.picture_source import Base64Source, PictureError

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("PNG", {}), ("PNG", {"optimize": True}), ("JPEG", {}), ("JPEG", {"progressive": True}),
    ("JPEG", {"exif": b"Exif\0\0" + b"x" * 60000, "icc_profile": b"y" * 200_000}), ("WEBP", {}),
    ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0" + b"x" * 500}),
    ("WEBP", {"lossless": True, "icc_profile": b"y" * 99}),
]  # fmt: skip
Image.init()
# As vLLM opens pictures: of these formats each in turn, by the order of their names.
ALL_FORMATS = sorted(Image.ID)
LOOKALIKES = build_lookalikes()
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
            picture = Image.open(io.BytesIO(damaged), formats=ALL_FORMATS)
            assert picture.format is not None
            assert f"image/{picture.format.lower()}" == seen.media_type
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
    for length in (65_530, 65_534, 65_535, 65_536, 65_537, 131_071, 200_000):
        assert read(encode("JPEG") + film[:length]).width == 64
    with pytest.raises(PictureError, match="truncated"):
        read(encode("JPEG")[:-2] + film)


class CountedSource(Base64Source):
    length = 0

    def read(self, start: int, length: int) -> bytes:
        self.length += length
        return super().read(start, length)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_the_end_of_a_picture_is_not_looked_for_everywhere(form: str) -> None:
    picture = encode(form)
    assert read(picture + b"film" * 500_000).width == 64
    for large in (picture + b"film" * 3_000_000, picture[:-10] + b"film" * 3_000_000):
        source = CountedSource(base64.b64encode(large).decode())
        with pytest.raises(PictureError, match="truncated, or more than 2097152 bytes"):
            read_header(source)
        assert source.length < 2_200_000


@pytest.mark.parametrize("options", [{"progressive": True}, {"progressive": True, "subsampling": 0}])
def test_scans_that_keep_the_decoder_busy_are_bounded(options: dict[str, Any]) -> None:
    picture = encode("JPEG", **options)
    tables = picture.rindex(b"\xff\xc4")
    assert tables < picture.rindex(b"\xff\xda")
    last = picture[tables:-2]
    assert read(picture[:-2] + last * 40 + b"\xff\xd9").width == 64
    for count in (70, 3000):
        with pytest.raises(PictureError, match="more than 64 scans"):
            read(picture[:-2] + last * count + b"\xff\xd9")


def test_scans_of_one_colour_each_are_bounded() -> None:
    picture = bytearray(encode("JPEG"))
    scan = picture.index(b"\xff\xda")
    one = b"\xff\xda\0\x08\1\1\0\0\x3f\0\0"
    assert read(bytes(picture[:scan]) + one * 3 + b"\xff\xd9").width == 64
    with pytest.raises(PictureError, match="scans"):
        read(bytes(picture[:scan]) + one * 65 + b"\xff\xd9")
    # A decoder stops at the second scan of a picture that its first scan makes whole.
    assert read(bytes(picture) + b"\xff\xda" * 100 + b"\xff\xd9").width == 64


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


@pytest.mark.parametrize("name", LOOKALIKES)
@pytest.mark.filterwarnings("ignore")
def test_a_picture_that_could_be_opened_as_another_format_is_refused(name: str) -> None:
    opened = Image.open(io.BytesIO(LOOKALIKES[name]), formats=ALL_FORMATS)
    assert opened.format == name.partition(" ")[0], "or this is no test"
    with pytest.raises(PictureError):
        read(LOOKALIKES[name])


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff", b"RIFF"]),
    st.lists(st.sampled_from([*range(32), 0x11, 0xAF, 0x3A, 0x3F, 0x80, 0xFF, 0x57, 0x45]), min_size=28, max_size=28),
)
def test_pillow_tells_no_other_format_by_first_bytes_that_get_through(magic: bytes, noise: list[int]) -> None:
    begin = (magic + bytes(noise))[:16]
    if begin.startswith(b"RIFF"):
        begin = begin[:8] + b"WEBPVP8 "
    accepts = {name: accept for name, (_, accept) in Image.OPEN.items() if accept is not None}
    accepting = {name for name, accept in accepts.items() if accept(begin)} - {"PNG", "JPEG", "WEBP"}
    assert not accepting or find_lookalike(begin) is not None, accepting


def test_pillow_has_no_other_format_without_first_bytes_of_its_own() -> None:
    told_later = {name for name, (_, accept) in Image.OPEN.items() if accept is None}
    assert told_later == {"IM", "IMT", "IPTC", "PCD", "SPIDER", "TGA"}, "lookalikes.py has to know the others"


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF", "PPM", "ICO", "AVIF"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(PictureError, match="is none of"):
        read(encode(form))


def test_a_bomb_is_read_like_any_other() -> None:
    assert read(build_png_bomb(50_000, 50_000)) == ("image/png", 50_000, 50_000)
    with pytest.raises(PictureError, match="no size"):
        read(build_png_bomb(0, 50))
