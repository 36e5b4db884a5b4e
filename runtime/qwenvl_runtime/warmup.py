"""The warm-up: what is asked through the front before anybody else may ask, and what counts as an answer."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from statistics import median

import orjson

from qwenvl_runtime.client import Answer, fetch
from qwenvl_runtime.config import RuntimeConfig, WarmupShot
from qwenvl_runtime.front import WARMUP_HEADER
from qwenvl_runtime.pictures import choose_sizes, count_tokens, draw_png

Ask = Callable[[bytes], Awaitable[Answer]]
"""Sends the body of a chat completion to the front."""

_ASKINGS = 3
_ANSWER_TOKENS = 16
# The chat template, the question and the picture's two marks; a tiny tokenizer may need a token for each letter.
_TEXT_TOKENS = 160
_QUESTION = "Describe the chart."
_GREETING = "Say hello."


class WarmupError(Exception):
    """What was wrong with an answer; never quotes it."""


@dataclass(frozen=True)
class Shot:
    name: str
    width: int = 0
    height: int = 0
    bodies: tuple[bytes, ...] = ()
    """One per asking, each different, so that no cache of the engine answers."""

    @property
    def least_tokens(self) -> int:
        """Fewer prompt tokens than this mean that the engine did not see the picture."""
        return count_tokens(self.width, self.height)


def prepare_shots(config: RuntimeConfig) -> list[Shot]:
    """Draws the pictures: some seconds of work, best done while the engine loads."""
    seeds = itertools.count()

    def build_bodies(draw: Callable[[int], bytes | None]) -> tuple[bytes, ...]:
        return tuple(_build_body(config, seed, draw(seed)) for seed in itertools.islice(seeds, _ASKINGS))

    shots = [Shot("text", bodies=build_bodies(lambda seed: None))]
    if config.media.max_images:
        room = config.engine.max_model_len - _ANSWER_TOKENS - _TEXT_TOKENS
        for name, size in choose_sizes(config.media.max_pixels, room).items():
            shots.append(Shot(name, *size, bodies=build_bodies(partial(draw_png, *size))))
    return shots


async def fire(shot: Shot, ask: Ask) -> WarmupShot:
    """Raises WarmupError when an answer is none."""
    seconds = []
    for body in shot.bodies:
        began = time.monotonic()
        answer = await ask(body)
        seconds.append(time.monotonic() - began)
        check_answer(shot, answer)
    return WarmupShot(
        name=shot.name,
        width=shot.width,
        height=shot.height,
        first_seconds=seconds[0],
        steady_seconds=median(seconds[1:]),
    )


def check_answer(shot: Shot, answer: Answer) -> None:
    what = f"warm-up request `{shot.name}`" + (f" ({shot.width}x{shot.height})" if shot.width else "")
    if answer.status != HTTPStatus.OK:
        raise WarmupError(f"{what} was answered with status {answer.status}")
    try:
        content = orjson.loads(answer.body)
        choices, tokens = len(content["choices"]), int(content["usage"]["prompt_tokens"])
    except (ValueError, KeyError, TypeError) as error:
        raise WarmupError(f"{what} was answered with something that is not a chat completion") from error
    if not choices:
        raise WarmupError(f"{what} was answered without a choice")
    if tokens < shot.least_tokens:
        raise WarmupError(f"{what} counted {tokens} prompt tokens, its picture alone has {shot.least_tokens}")


def ask_port(port: int, token: str) -> Ask:
    async def ask(body: bytes) -> Answer:
        headers = {"content-type": "application/json", WARMUP_HEADER: token}
        return await fetch(("127.0.0.1", port), "POST", "/v1/chat/completions", headers, body)

    return ask


def _build_body(config: RuntimeConfig, seed: int, png: bytes | None) -> bytes:
    content: list[dict[str, object]] = [{"type": "text", "text": _GREETING if png is None else _QUESTION}]
    if png is not None:
        url = "data:image/png;base64," + base64.b64encode(png).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    return orjson.dumps(
        {
            "model": config.engine.served_name,
            "messages": [{"role": "user", "content": content}],
            # Always as many tokens, so that the first and the later askings can be compared.
            "max_tokens": _ANSWER_TOKENS,
            "ignore_eos": True,
            "temperature": 0,
            "seed": seed,
        }
    )
