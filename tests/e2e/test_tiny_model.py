"""The tiny model on a real vLLM: it reads charts that it has never met, and cannot answer without seeing them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from openai import AsyncOpenAI

from harness.tiny_model import charts, lessons
from harness.tiny_model.charts import QUESTION, Chart
from harness.vllm_process import VllmServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

AT_ONCE = 8


@dataclass(frozen=True)
class Model:
    client: AsyncOpenAI
    name: str
    turns: asyncio.Semaphore

    async def ask(self, question: str, *pictures: bytes, **fields: Any) -> str:
        """The answer, which must have come to its own end."""
        async with self.turns:
            completion = await self.client.chat.completions.create(
                model=self.name, messages=build_messages(question, *pictures), temperature=0, max_tokens=48, **fields
            )
        assert completion.choices[0].finish_reason == "stop"
        return completion.choices[0].message.content or ""

    async def ask_each(self, shown: Sequence[Chart], question: str = QUESTION, **fields: Any) -> list[str]:
        return await asyncio.gather(*(self.ask(question, chart.png(), **fields) for chart in shown))


@pytest.fixture
async def model(vllm_server: VllmServer) -> AsyncIterator[Model]:
    async with (
        vllm_server.connect() as http,
        AsyncOpenAI(base_url="http://vllm/v1", api_key="none", http_client=http, max_retries=0) as client,
    ):
        yield Model(client, vllm_server.model, asyncio.Semaphore(AT_ONCE))


@pytest.fixture(scope="module")
def drawn() -> list[Chart]:
    return [charts.draw(seed) for seed in range(120)]


@pytest.fixture(scope="module")
def plotted() -> list[Chart]:
    return [charts.draw_matplotlib(seed) for seed in range(80)]


def build_messages(question: str, *pictures: bytes) -> list[Any]:
    shown = [{"type": "image_url", "image_url": {"url": charts.data_url(picture)}} for picture in pictures]
    return [{"role": "user", "content": [*shown, {"type": "text", "text": question}]}]


def build_schema(*keys: str) -> dict[str, Any]:
    """A response format with one colour for each key."""
    colour = {"type": "string", "enum": sorted(charts.COLOURS)}
    schema = {"type": "object", "properties": dict.fromkeys(keys, colour), "required": keys}
    return {"type": "json_schema", "json_schema": {"name": "bars", "schema": schema}}


def share(answers: Sequence[object], right: Sequence[object]) -> float:
    return sum(answer == want for answer, want in zip(answers, right, strict=True)) / len(right)


def answers_of(shown: Sequence[Chart]) -> list[str]:
    return [chart.answer for chart in shown]


def pair_up(left: Sequence[Chart], right: Sequence[Chart]) -> list[tuple[Chart, Chart]]:
    """Twenty pairs whose answers differ, so that no half can stand in for the other."""
    pairs = [(one, other) for one, other in zip(left, right, strict=False) if one.answer != other.answer]
    return pairs[:20]


async def test_reads_two_hundred_unseen_charts(model: Model, drawn: list[Chart], plotted: list[Chart]) -> None:
    by_pil, by_matplotlib = await asyncio.gather(model.ask_each(drawn), model.ask_each(plotted))
    assert share(by_pil + by_matplotlib, answers_of(drawn + plotted)) >= 0.95
    assert share(by_matplotlib, answers_of(plotted)) >= 0.95


async def test_sees_nothing_where_nothing_is_shown(model: Model, plotted: list[Chart]) -> None:
    blank = [charts.blank(chart) for chart in plotted[:20]]
    assert share(await model.ask_each(blank), answers_of(blank)) < 0.5


async def test_answers_about_the_picture_that_is_shown_and_no_other(model: Model, plotted: list[Chart]) -> None:
    shown, asked_about = plotted[:20], plotted[1:21]
    assert share(await model.ask_each(shown), answers_of(asked_about)) < 0.5


async def test_says_so_when_there_is_no_picture(model: Model) -> None:
    for text in (QUESTION, "Hello", "Are you there, and is it 3 o'clock?"):
        assert await model.ask(text) == lessons.NO_PICTURE


async def test_understands_other_words(model: Model, plotted: list[Chart]) -> None:
    shown = plotted[: 2 * len(lessons.HIGHEST)]
    asked = (model.ask(*pair) for pair in zip(lessons.HIGHEST * 2, (chart.png() for chart in shown), strict=True))
    assert share(await asyncio.gather(*asked), answers_of(shown)) >= 0.95


async def test_reads_jpeg_and_large_pictures(model: Model, plotted: list[Chart]) -> None:
    as_jpeg = await asyncio.gather(*(model.ask(QUESTION, chart.jpeg()) for chart in plotted[:20]))
    assert share(as_jpeg, answers_of(plotted[:20])) >= 0.9
    large = charts.draw_matplotlib(0, 1280, 960)
    assert await model.ask(QUESTION, large.png()) == large.answer


async def test_tells_two_pictures_apart(model: Model, drawn: list[Chart], plotted: list[Chart]) -> None:
    pairs = pair_up(drawn, plotted)

    async def ask(question: str) -> list[str]:
        return await asyncio.gather(*(model.ask(question, one.png(), other.png()) for one, other in pairs))

    right = [f"{one.answer}, {other.answer}" for one, other in pairs]
    reversed_ = [f"{other.answer}, {one.answer}" for one, other in pairs]
    both = await ask(lessons.IN_EACH[0])
    assert share(both, right) >= 0.9
    assert share(both, reversed_) < 0.1
    assert share(await ask(lessons.IN_ONE["first"][0]), [one.answer for one, _ in pairs]) >= 0.9
    assert share(await ask(lessons.IN_ONE["second"][0]), [other.answer for _, other in pairs]) >= 0.9


@pytest.mark.parametrize("question", [QUESTION, f"{QUESTION} {lessons.AS_JSON[0]}"])
async def test_answers_by_a_json_schema(model: Model, plotted: list[Chart], question: str) -> None:
    shown = plotted[:20]
    answers = await model.ask_each(shown, question, response_format=build_schema("highest"))
    assert share([json.loads(answer) for answer in answers], [{"highest": chart.answer} for chart in shown]) >= 0.9


async def test_answers_by_a_json_schema_about_two_pictures(
    model: Model, drawn: list[Chart], plotted: list[Chart]
) -> None:
    pairs = pair_up(drawn, plotted)
    schema = build_schema("first", "second")
    asked = (model.ask(lessons.IN_EACH[0], a.png(), b.png(), response_format=schema) for a, b in pairs)
    answers = [json.loads(answer) for answer in await asyncio.gather(*asked)]
    assert share(answers, [{"first": a.answer, "second": b.answer} for a, b in pairs]) >= 0.9


async def test_streams_the_answer_token_by_token(model: Model, plotted: list[Chart]) -> None:
    chart = plotted[0]
    stream = await model.client.chat.completions.create(
        model=model.name,
        messages=build_messages(f"{QUESTION} {lessons.AS_JSON[0]}", chart.png()),
        temperature=0,
        max_tokens=48,
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    pieces, counts = [], []
    async for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                pieces.append(choice.delta.content)
                assert chunk.usage is not None
                counts.append(chunk.usage.completion_tokens)
    assert "".join(pieces) == lessons.in_json({"highest": chart.answer})
    # Each chunk left before the next token was known.
    assert counts == sorted(set(counts))
    assert len(pieces) > 4
