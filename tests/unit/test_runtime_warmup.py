"""The warm-up set and what passes for an answer."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.fake_engine.vllm import sizes
from harness.runtime_process import build_config
from qwenvl_runtime.client import Answer
from qwenvl_runtime.config import MIN_PIXELS
from qwenvl_runtime.pictures import choose_size, choose_sizes, count_tokens, draw_png
from qwenvl_runtime.warmup import Shot, WarmupError, check_answer, prepare_shots


@given(st.integers(MIN_PIXELS, 16 << 20))
def test_the_largest_size_is_taken_by_the_model_as_it_is(max_pixels: int) -> None:
    width, height = choose_size(max_pixels)
    assert width % 32 == height % 32 == 0
    assert MIN_PIXELS * 0.9 < width * height <= max_pixels
    assert max(width, height) / min(width, height) <= 1.5
    assert width * height > 0.9 * max_pixels - 32 * 32
    if width * height >= MIN_PIXELS:
        assert sizes.count_tokens(width, height, max_pixels) == count_tokens(width, height)


@given(st.integers(MIN_PIXELS, 16 << 20), st.integers(1, 20_000))
def test_the_proof_is_of_a_size_that_the_set_does_not_hold(max_pixels: int, room: int) -> None:
    chosen = choose_sizes(max_pixels, room)
    assert list(chosen) == ["smallest", "typical", "largest", "proof"]
    assert chosen["proof"] not in [chosen["smallest"], chosen["typical"], chosen["largest"]]
    pixels = {name: width * height for name, (width, height) in chosen.items()}
    assert pixels["smallest"] == MIN_PIXELS
    assert max(pixels.values()) <= max(MIN_PIXELS, min(max_pixels, room * 1024))


def test_each_picture_is_another_one_and_drawn_again_the_same() -> None:
    pictures = [draw_png(320, 256, seed) for seed in range(12)]
    assert len(set(pictures)) == 12
    assert draw_png(320, 256, 3) == pictures[3]
    image = Image.open(io.BytesIO(pictures[0])).convert("RGB")
    assert image.size == (320, 256)
    assert len(image.getcolors(1 << 16) or []) > 10, "a chart, not an empty sheet"


@pytest.mark.parametrize("max_pixels", [MIN_PIXELS, 1 << 20, 4 << 20])
def test_every_request_of_the_set_fits_into_the_smallest_limit_that_the_api_accepts(max_pixels: int) -> None:
    config = build_config(media={"max_pixels": max_pixels}, engine={"max_model_len": 65536})
    longest = max(len(body) for shot in prepare_shots(config) for body in shot.bodies)
    assert longest < max(64 << 10, max_pixels // 16)


def test_no_two_requests_of_the_set_are_the_same() -> None:
    shots = prepare_shots(build_config())
    bodies = [body for shot in shots for body in shot.bodies]
    assert len(set(bodies)) == len(bodies) == 15
    for shot in shots[1:]:
        for body in shot.bodies:
            url = json.loads(body)["messages"][0]["content"][0]["image_url"]["url"]
            assert sizes.read_size(url) == (shot.width, shot.height)


def test_the_fake_engine_reads_jpeg_sizes_too() -> None:
    jpeg = io.BytesIO()
    Image.new("RGB", (300, 200)).save(jpeg, "JPEG")
    assert sizes.read_size("data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()) == (300, 200)


def answer(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode())


GOOD: dict[str, Any] = {"choices": [{}], "usage": {"prompt_tokens": 70}}


@pytest.mark.parametrize(
    ("given_answer", "complaint"),
    [
        (answer(GOOD, 500), "status 500"),
        (answer({**GOOD, "choices": []}), "without a choice"),
        (answer({**GOOD, "usage": {"prompt_tokens": 63}}), "counted 63 prompt tokens, its picture alone has 64"),
        (answer({**GOOD, "usage": None}), "not a chat completion"),
        (answer({"choices": [{}]}), "not a chat completion"),
        (answer(["secret"]), "not a chat completion"),
        (Answer(200, b"{"), "not a chat completion"),
    ],
)
def test_bad_answers_are_told_without_quoting_them(given_answer: Answer, complaint: str) -> None:
    with pytest.raises(WarmupError, match=complaint) as error:
        check_answer(Shot("smallest", 256, 256), given_answer)
    assert "`smallest` (256x256)" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_good_answer_passes() -> None:
    check_answer(Shot("smallest", 256, 256), answer(GOOD))
    check_answer(Shot("text"), answer({**GOOD, "usage": {"prompt_tokens": 3}}))
