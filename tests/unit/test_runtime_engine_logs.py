"""What of the engine's lines may be shown when."""

from __future__ import annotations

import json

import pytest

from qwenvl_runtime.engine_logs import EngineLog, redact

HEADER = "(APIServer pid=12) ERROR 11-22 21:00:00 [serving.py:929] "


@pytest.mark.parametrize(
    "text",
    [
        "Skipping multimodal part '{'text': 'canary'}' (type: 'text') with empty / unparsable content.",
        "Chat template rejected the request: canary",
        "System messages should only contain text content. Found content type: 'canary'.",
        "Tool call 'canary' arguments decoded to list, not a JSON object",
        "    raise ValueError(canary)",
        "canary",
        "Engine canary: Avg prompt throughput",
        'File "canary is not a path"',
    ],
)
def test_what_may_quote_a_request_is_withheld(text: str) -> None:
    assert redact(text) == ""


@pytest.mark.parametrize("text", ["ValueError: canary", "vllm.exceptions.VLLMValidationError: canary"])
def test_of_exceptions_the_name_shows(text: str) -> None:
    assert redact(text) == text.partition(":")[0]


@pytest.mark.parametrize(
    "text",
    [
        "Engine 000: Avg prompt throughput: 27.9 tokens/s, Avg generation throughput: 7.9 tokens/s, Running: 1 reqs, "
        "Waiting: 0 reqs, CPU KV cache usage: 0.0%, Prefix cache hit rate: 0.0%, MM cache hit rate: 0.0%",
        "[shutdown] API server: stopping engine client mode=drain timeout=5s",
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.12/site-packages/vllm/v1/engine/core.py", line 1234, in run_engine_core',
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB",
        "RuntimeError: CUDA error: an illegal memory access was encountered",
        "EngineCore encountered a fatal error.",
    ],
)
def test_what_operators_need_passes(text: str) -> None:
    assert redact(text) == text


def test_lines_while_loading_are_whole(capfd: pytest.CaptureFixture[str]) -> None:
    EngineLog().relay("(Worker pid=9) INFO 11-22 21:00:00 [default_loader.py:10] Loading weights took 2.34 seconds")
    line = json.loads(capfd.readouterr().out)
    assert line["message"] == "Loading weights took 2.34 seconds"
    assert (line["process"], line["place"], line["level"]) == ("Worker", "default_loader.py:10", "info")


def test_withheld_lines_show_their_place_once(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog()
    log.guarded = True
    for text in ("canary", "canary again", "ValueError: canary", "more canary"):
        log.relay(HEADER + text)
    log.relay("a line without a header: canary")
    out = capfd.readouterr().out
    assert "canary" not in out
    messages = [json.loads(line)["message"] for line in out.splitlines()]
    withheld = "text withheld: it may quote a request"
    assert messages == [withheld, "ValueError", withheld, withheld]
    assert "serving.py:929" in out


def test_the_cause_is_the_exception_that_others_point_at(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog()
    for text in (
        "ValueError: the KV cache does not fit",
        "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
        "something else",
    ):
        log.relay(HEADER + text)
    assert log.find_cause() == "ValueError: the KV cache does not fit"
    assert EngineLog().find_cause() == ""


def test_without_an_exception_the_last_lines_are_the_cause(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog()
    for text in ("usage: api_server.py", "  [--seed SEED]", "", "api_server.py: error: no such argument: --x", "bye"):
        log.relay(text)
    assert log.find_cause() == "  [--seed SEED] | api_server.py: error: no such argument: --x | bye"
    log.guarded = True
    log.relay(HEADER + "Skipping multimodal part 'canary'")
    assert "canary" not in log.find_cause()
    capfd.readouterr()
