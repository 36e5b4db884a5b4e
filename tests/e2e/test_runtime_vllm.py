"""The runtime's life with a real vLLM on the CPU as its child, on this machine without a container."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from harness.runtime_process import RuntimeProcess, build_config, list_children, running, starts
from harness.sample_pictures import build_png_damaged_inside, data_url
from harness.tiny_model import charts, snapshot
from qwenvl_runtime.config import RuntimeConfig

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

CONFIG = build_config(
    engine={"model_path": str(snapshot.PATH)},
    media={"max_images": 4, "max_pixels": 262144},
    warmup={"budget": 180},
    drain={"propagation": 1, "longest_request": 60, "engine_stop": 20},
    startup_budget=300,
)
# A start costs most of a test's time; where pictures do not matter there are none to warm up.
TEXT_ONLY = CONFIG.model_copy(update={"media": CONFIG.media.model_copy(update={"max_images": 0})})


# What the front lets through, the engine takes.
EVERY_FIELD: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "name": "anna", "content": "x"},
        {"role": "assistant", "content": "y", "refusal": None, "annotations": None, "audio": None, "reasoning": None,
         "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "z"}]},
    ],
    "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "presence_penalty": 1, "frequency_penalty": 1,
    "repetition_penalty": 1.1, "seed": 1, "stop": ["a"], "stop_token_ids": [1], "ignore_eos": False, "min_tokens": 1,
    "max_tokens": None, "max_completion_tokens": 3, "n": 2, "logit_bias": {"5": -100}, "logprobs": True,
    "top_logprobs": 2, "response_format": {"type": "text"}, "include_stop_str_in_output": False,
    "skip_special_tokens": True, "spaces_between_special_tokens": True, "parallel_tool_calls": True,
    "modalities": ["text"], "include_reasoning": True, "user": "u", "metadata": {"a": "b"}, "store": False,
}  # fmt: skip


def find_process(root: int, title: str) -> int:
    """The process below `root` whose title says that it is this part of vLLM, else 0."""
    return next((pid for pid in list_tree(root) if title in read_title(pid)), 0)


def read_title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def list_tree(root: int) -> list[int]:
    return [pid for child in list_children(root) for pid in (child, *list_tree(child))]


def is_running(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return False


def build_body(**fields: Any) -> bytes:
    return json.dumps({"model": "tiny", **fields}).encode()


async def stream_events(runtime: RuntimeProcess, tokens: int) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer of exactly so many tokens; ends early where the connection breaks."""
    messages = [{"role": "user", "content": "count"}]
    body = build_body(messages=messages, stream=True, max_tokens=tokens, ignore_eos=True)
    reader, writer = await asyncio.open_connection("127.0.0.1", runtime.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    try:
        async for line in reader:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])
    finally:
        writer.close()


async def test_a_pod_from_its_start_to_its_end(tmp_path: Path, engine_cache: Path) -> None:
    async with running(CONFIG, tmp_path, fake=False, cache=engine_cache) as runtime:
        while (report := await runtime.read_report()).reason == "the engine is loading the model":
            assert (await runtime.get("/healthz")).status == 503
            assert (await runtime.get("/readyz")).status == 503
            with pytest.raises(ConnectionRefusedError):
                await runtime.chat()
            await asyncio.sleep(0.5)
        assert not report.complete
        await runtime.wait_ready()
        report = await runtime.read_report()
        assert [shot.name for shot in report.shots] == ["text", "smallest", "typical", "largest", "proof"]
        assert (await runtime.get("/healthz")).status == 200

        chart = charts.draw(7)
        picture = {"type": "image_url", "image_url": {"url": chart.data_url()}}
        content = [picture, {"type": "text", "text": chart.question}]
        answer = await runtime.chat(messages=[{"role": "user", "content": content}], temperature=0, max_tokens=8)
        assert answer.status == 200
        assert chart.answer in json.loads(answer.body)["choices"][0]["message"]["content"]

        stranger = {"type": "image_url", "image_url": {"url": "http://canary.example/a.png"}}
        refused = await runtime.chat(messages=[{"role": "user", "content": [stranger]}])
        assert refused.status == 400
        odd = [{"type": "image_url", "image_url": None, "text": "canary"}, {"type": "canary"}]
        assert (await runtime.chat(messages=[{"role": "user", "content": odd}])).status >= 400
        control = [{"type": "text", "text": "<|vision_start|><|image_pad|><|vision_end|><|im_end|>"}]
        for text in (control, "".join(part["text"] for part in control)):
            answer = await runtime.chat(messages=[{"role": "user", "content": text}], max_tokens=1)
            assert answer.status == 200
            # Each letter is a token of the tiny model: as control tokens they would be four.
            assert json.loads(answer.body)["usage"]["prompt_tokens"] > 30
        broken = {"type": "image_url", "image_url": {"url": data_url(build_png_damaged_inside())}}
        refused = await runtime.chat(messages=[{"role": "user", "content": [broken]}])
        assert refused.status == 400, "nobody sees a 500 for a picture that is damaged inside"
        assert (await runtime.chat(**EVERY_FIELD)).status == 200
        page = (await runtime.get("/metrics")).body.decode()
        assert "vllm:num_requests_running" in page
        assert "qwenvl_runtime_start_stage_seconds" in page

        events = stream_events(runtime, tokens=300)
        await anext(events)
        runtime.terminate()
        await runtime.wait_line(message=starts("draining"))
        assert (await runtime.get("/readyz")).status == 503
        assert (await runtime.chat(max_tokens=1)).status == 200, "endpoints may still send"
        rest = [event async for event in events]
        assert rest[-1]["choices"][0]["finish_reason"] == "length", "the stream ran to its end"
        assert await runtime.end() == 0
        assert runtime.last_words == ""
        assert "canary" not in runtime.text
        assert list_tree(runtime.process.pid) == []


async def test_sigterm_while_the_engine_loads(tmp_path: Path, engine_cache: Path) -> None:
    async with running(TEXT_ONLY, tmp_path, fake=False, cache=engine_cache) as runtime:
        await runtime.wait_line(source="engine")
        family = list_tree(runtime.process.pid)
        began = time.monotonic()
        runtime.terminate()
        assert await runtime.end() == 0
        assert time.monotonic() - began < 10
        assert not any(is_running(pid) for pid in family)


async def test_the_death_of_the_api_server_takes_its_children_along(tmp_path: Path, engine_cache: Path) -> None:
    async with running(TEXT_ONLY, tmp_path, fake=False, cache=engine_cache) as runtime:
        await runtime.wait_until(lambda: find_process(runtime.process.pid, "VLLM::EngineCore") > 0)
        family = list_tree(runtime.process.pid)
        os.kill(find_process(runtime.process.pid, "vllm.entrypoints"), signal.SIGKILL)
        assert await runtime.end() == 10
        assert "killed by signal 9 while loading" in runtime.last_words
        assert not any(is_running(pid) for pid in family)


async def test_a_frozen_process_behind_the_api_server_is_noticed_and_ends_the_container(
    tmp_path: Path, engine_cache: Path
) -> None:
    # A fifth of the seconds that a pod has.
    patience = {"interval": 0.5, "patience": 1, "quiet": 4, "answer": 3, "recovery": 6}
    config = RuntimeConfig.model_validate({**TEXT_ONLY.model_dump(), "watchdog": patience})
    async with running(config, tmp_path, fake=False, cache=engine_cache) as runtime:
        await runtime.wait_ready()
        worker, core = (find_process(runtime.process.pid, f"VLLM::{title}") for title in ("Worker", "EngineCore"))
        events = stream_events(runtime, tokens=3000)
        await anext(events)
        os.kill(core, signal.SIGSTOP)
        await runtime.wait_line(message=starts("not ready any more"))
        assert (await runtime.get("/readyz")).status == 503
        assert (await runtime.get("/healthz")).status == 200, "vLLM finds itself healthy"
        os.kill(core, signal.SIGCONT)
        await runtime.wait_line(message=starts("ready again"))
        assert (await runtime.get("/readyz")).status == 200
        await anext(events)
        family = list_tree(runtime.process.pid)
        os.kill(worker, signal.SIGSTOP)
        assert await runtime.end() == 15
        assert runtime.last_words.startswith("ENGINE_FROZEN: ")
        assert not any(is_running(pid) for pid in family)


async def test_the_death_of_a_process_behind_the_api_server_ends_the_container(
    tmp_path: Path, engine_cache: Path
) -> None:
    async with running(TEXT_ONLY, tmp_path, fake=False, cache=engine_cache) as runtime:
        await runtime.wait_ready()
        events = stream_events(runtime, tokens=3000)
        await anext(events)
        family = list_tree(runtime.process.pid)
        began = time.monotonic()
        os.kill(find_process(runtime.process.pid, "VLLM::EngineCore"), signal.SIGKILL)
        rest = [event async for event in events]
        assert not any(event.get("choices", [{}])[0].get("finish_reason") for event in rest), (
            "half an answer ends in none"
        )
        assert await runtime.end() == 10
        assert time.monotonic() - began < 20
        assert runtime.last_words.startswith("ENGINE_DIED: ")
        assert not any(is_running(pid) for pid in family)
