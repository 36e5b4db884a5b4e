"""The decoder's failures over pictures that look whole: each is told from a failure of the engine."""

from __future__ import annotations

import io
import json
import random

import pytest
from PIL import Image

from harness.sample_pictures import build_png_damaged_inside, encode
from qwenvl_runtime.engine_faults import find_client_fault
from qwenvl_runtime.media_fetch import BytesSource
from qwenvl_runtime.picture_header import read_header
from qwenvl_runtime.picture_source import PictureError

WHOLE = (
    encode("PNG", 200, 200),
    encode("JPEG", 200, 200),
    encode("JPEG", 200, 200, progressive=True),
    encode("WEBP", 200, 200),
    encode("WEBP", 200, 200, lossless=True),
    build_png_damaged_inside(),
)


def damage(picture: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(picture))
    noise = bytes(chance.randrange(256) for _ in range(4))
    return picture[:place] + chance.choice((b"", noise)) + picture[place + chance.choice((0, 1, 40)) :]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", range(len(WHOLE)))
def test_a_picture_that_cannot_be_decoded_is_the_clients_fault(number: int) -> None:
    chance, messages = random.Random(number), set()
    for _ in range(150):
        picture = damage(WHOLE[number], chance)
        try:
            read_header(BytesSource(picture))
        except PictureError:
            continue
        try:
            Image.open(io.BytesIO(picture)).load()
        except Exception as error:
            messages.add(str(error))
    assert messages, "some get past the check of the header"
    answers = {message: json.dumps({"error": {"message": message}}).encode() for message in messages}
    assert [message for message, answer in answers.items() if find_client_fault(answer) is None] == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"error": {"message": 5}}', b'{"error": {"message": "CUDA error"}}']
)
def test_every_other_failure_is_the_engines(body: bytes) -> None:
    assert find_client_fault(body) is None
