"""The runtime's life as a process, with the fake engine as its child."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from component.runtime.scripted_engine import RawClient, build_post
from harness.runtime_process import RuntimeProcess, build_config, list_children, running, starts

pytestmark = pytest.mark.process
STREAM = b'{"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "stream": true}'


def engine_pid(runtime: RuntimeProcess) -> int:
    pid: int = next(entry["pid"] for entry in runtime.journal if entry["event"] == "started")
    return pid


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except FileNotFoundError:
        return True


def count(runtime: RuntimeProcess, event: str) -> int:
    return sum(entry["event"] == event for entry in runtime.journal)


# Start and warm-up


async def test_ready_means_that_the_whole_set_was_answered(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path, start_seconds=0.3) as runtime:
        assert (await runtime.get("/healthz")).status == 503
        assert (await runtime.get("/readyz")).status == 503
        with pytest.raises(ConnectionRefusedError):
            await runtime.chat()
        assert b"qwenvl_runtime_phase" in (await runtime.get("/metrics")).body
        report = await runtime.read_report()
        assert (report.complete, report.shots) == (False, ())
        assert report.reason
        await runtime.wait_ready()
        report = await runtime.read_report()
        assert [shot.name for shot in report.shots] == ["text", "smallest", "typical", "largest", "proof"]
        assert (report.shots[1].width, report.shots[3].width) == (256, 512)
        assert report.complete
        assert report.stages["engine"] > 0.3
        assert (await runtime.get("/healthz")).status == 200
        assert (await runtime.get("/readyz")).status == 200
        asked = [entry for entry in runtime.journal if entry["event"] == "request"]
        assert len(asked) == 15
        answer = await runtime.chat()
        assert answer.status == 200
        assert json.loads(answer.body)["usage"]["prompt_tokens"] == 13
        page = (await runtime.get("/metrics")).body.decode()
        assert "vllm:num_requests_running" in page
        assert 'qwenvl_runtime_warmup_seconds{asking="first",shot="largest"}' in page


async def test_the_first_askings_are_slow_and_the_proof_is_not(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path, first_seconds=0.3) as runtime:
        await runtime.wait_ready()
        shots = {shot.name: shot for shot in (await runtime.read_report()).shots}
        assert shots["text"].first_seconds > 0.3
        assert shots["smallest"].first_seconds > 0.3
        assert shots["smallest"].steady_seconds < 0.3
        assert shots["proof"].first_seconds < 0.3


async def test_a_model_without_pictures_is_warmed_with_text(tmp_path: Path) -> None:
    async with running(build_config(media={"max_images": 0}), tmp_path) as runtime:
        await runtime.wait_ready()
        assert [shot.name for shot in (await runtime.read_report()).shots] == ["text"]


async def test_the_largest_picture_fits_the_context(tmp_path: Path) -> None:
    config = build_config(media={"max_pixels": 4 << 20, "max_request_bytes": 8 << 20}, engine={"max_model_len": 1024})
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        largest = (await runtime.read_report()).shots[3]
        assert 600 * 1024 < largest.width * largest.height <= 1024 * (1024 - 160 - 16)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"picture_blind": True}, "its picture alone has 64"),
        ({"prompt_tokens": 5}, "counted 5 prompt tokens"),
        ({"status": 500}, "answered with status 500"),
        ({"no_choices": True}, "without a choice"),
        ({"nonsense": True}, "not a chat completion"),
        ({"hang": True}, "the warm-up asks `text`"),
    ],
)
async def test_a_model_that_fails_the_warm_up_is_never_ready(
    tmp_path: Path, faults: dict[str, Any], reason: str
) -> None:
    async with running(build_config(warmup={"budget": 1.5}), tmp_path, **faults) as runtime:
        await runtime.wait_until(lambda: count(runtime, "request") > 0)
        assert (await runtime.get("/readyz")).status == 503
        with pytest.raises(ConnectionRefusedError):
            await runtime.chat()
        assert await runtime.end() == 12
        assert reason in runtime.last_words
        assert runtime.last_words.startswith("WARMUP_FAILED: ")
        assert runtime.lines[-1]["level"] == "error"
        assert not list_children(runtime.process.pid)


async def test_a_warm_up_that_failed_once_is_tried_again(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path, status=500) as runtime:
        await runtime.wait_line(message=starts("the warm-up failed"))
        assert "status 500" in (await runtime.read_report()).reason
        runtime.set_faults()
        await runtime.wait_ready()
        report = await runtime.read_report()
        assert report.complete
        assert report.reason == ""


async def test_loading_has_a_budget(tmp_path: Path) -> None:
    async with running(build_config(startup_budget=0.5), tmp_path, start_seconds=60) as runtime:
        assert await runtime.end() == 11
        assert "startup.budget (0.5 s)" in runtime.last_words


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    failure = "ValueError: the KV cache does not fit"
    async with running(build_config(), tmp_path, start_failure=failure) as runtime:
        assert await runtime.end() == 10
        assert runtime.last_words == f"ENGINE_DIED: the engine ended with exit code 1 while loading: {failure}\n"


async def test_an_argument_that_the_engine_does_not_know_ends_the_start(tmp_path: Path) -> None:
    async with running(build_config(engine={"extra_args": ("--unknown", "1")}), tmp_path) as runtime:
        assert await runtime.end() == 10
        assert "exit code 2 while loading" in runtime.last_words


async def test_unsafe_arguments_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="BAD_CONFIG"):
        async with running(build_config(engine={"extra_args": ("--trust-remote-code",)}), tmp_path):
            pass
    assert "--trust-remote-code" in (tmp_path / "termination-log").read_text()
    assert not (tmp_path / "journal").exists()


async def test_a_port_that_somebody_else_has_taken_in_the_meantime_is_named(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path, start_seconds=1) as runtime:
        with socket.create_server(("127.0.0.1", runtime.port)):
            assert await runtime.end() == 2
        assert runtime.last_words == f"BAD_CONFIG: cannot listen on port {runtime.port}: Address already in use\n"
        assert not any(line["message"].startswith("ready") for line in runtime.lines)


async def test_a_broken_configuration_is_named(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qwenvl_runtime", "--config", "none.json"), cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 2
    assert "none.json" in json.loads(out)["message"]


async def test_the_engine_is_cut_off_from_the_outside(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_until(lambda: bool(runtime.journal))
        environment = runtime.journal[0]["environment"]
        assert environment["HF_HUB_OFFLINE"] == environment["VLLM_NO_USAGE_STATS"] == "1"
        assert environment["VLLM_PLUGINS"] == ""
        assert environment["HOME"].startswith("/tmp/qwenvl-")
        assert os.stat(environment["HOME"]).st_mode & 0o077 == 0


async def test_each_life_has_its_own_id(tmp_path: Path) -> None:
    ids = set()
    for _ in range(2):
        async with running(build_config(media={"max_images": 0}), tmp_path) as runtime:
            await runtime.wait_ready()
            ids.add((await runtime.read_report()).boot_id)
    assert len(ids) == 2


# The engine's death


@pytest.mark.parametrize("faults", [{"die_in_request": True}, {"die_in_answer": True}])
async def test_an_engine_that_ends_with_code_0_ends_the_container_with_another(
    tmp_path: Path, faults: dict[str, Any]
) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(**faults)
        async with RawClient.opened(runtime.port) as client:
            await client.send(build_post(STREAM))
            if "die_in_request" in faults:
                reply = await client.read_reply()
                # The second one where the pooled connection was taken for a stale one.
                assert (reply.status, reply.error_code()) in [(502, "engine_broke_off"), (503, "engine_unreachable")]
            else:
                with pytest.raises(asyncio.IncompleteReadError):
                    await client.read_reply()
        assert await runtime.end() == 10
        assert "ended with exit code 0 while serving" in runtime.last_words


async def test_a_killed_engine_ends_the_container_at_once(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path, child=True) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(hang=True)
        asking = asyncio.create_task(runtime.chat())
        await runtime.wait_until(lambda: count(runtime, "request") == 16)
        began = time.monotonic()
        os.kill(engine_pid(runtime), signal.SIGKILL)
        assert (await asking).status in (502, 503)
        assert await runtime.end() == 10
        assert time.monotonic() - began < 2
        assert "was killed by signal 9 while serving" in runtime.last_words
        child = next(entry["pid"] for entry in runtime.journal if entry["event"] == "child")
        await runtime.wait_until(lambda: is_gone(child))


async def test_an_engine_that_says_that_it_is_dead_is_dead(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(health_status=503)
        assert (await runtime.get("/healthz")).status == 503
        assert await runtime.end() == 10
        assert "says that it is dead" in runtime.last_words


# An engine that is there and does nothing

# As in a pod, in fewer seconds.
WATCHDOG = {"interval": 0.1, "patience": 0.5, "quiet": 0.4, "answer": 0.4, "recovery": 0.8}


async def wait_frozen(runtime: RuntimeProcess) -> None:
    await runtime.wait_line(message=starts("not ready any more"))
    assert (await runtime.get("/readyz")).status == 503


async def test_an_idle_engine_that_hangs_is_out_of_rotation_and_then_ended(tmp_path: Path) -> None:
    async with running(build_config(watchdog=WATCHDOG), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(hang=True)
        await wait_frozen(runtime)
        assert (await runtime.get("/healthz")).status == 200, "what restarts it is the runtime, which has words for it"
        answer = await runtime.chat()
        assert answer.status == 503
        assert b"frozen" in answer.body
        assert b'qwenvl_runtime_phase{phase="frozen"} 1.0' in (await runtime.get("/metrics")).body
        assert await runtime.end() == 15
        assert runtime.last_words.startswith("ENGINE_FROZEN: the engine has done nothing for ")
        assert "while 0 request(s) waited" in runtime.last_words


async def test_a_stopped_engine_cuts_its_stream_and_is_killed(tmp_path: Path) -> None:
    async with running(build_config(watchdog=WATCHDOG), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(events=1000, event_seconds=0.05)
        async with RawClient.opened(runtime.port) as client:
            await client.send(build_post(STREAM))
            await client.reader.readuntil(b"data: ")
            pid = engine_pid(runtime)
            os.kill(pid, signal.SIGSTOP)
            assert await runtime.end() == 15
            assert not (await client.reader.read()).endswith(b"0\r\n\r\n"), "a cut stream looks whole"
        assert "while 1 request(s) waited" in runtime.last_words
        assert is_gone(pid)


async def test_an_engine_that_goes_on_is_ready_again_without_a_restart(tmp_path: Path) -> None:
    config = build_config(watchdog={**WATCHDOG, "recovery": 30})
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        pid = engine_pid(runtime)
        os.kill(pid, signal.SIGSTOP)
        await wait_frozen(runtime)
        os.kill(pid, signal.SIGCONT)
        await runtime.wait_line(message=starts("ready again"))
        assert (await runtime.get("/readyz")).status == 200
        assert (await runtime.chat()).status == 200
        assert engine_pid(runtime) == pid


async def test_an_engine_that_is_busy_for_others_is_left_alone(tmp_path: Path) -> None:
    async with running(build_config(watchdog=WATCHDOG), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(hang=True, moves=True)
        waits = asyncio.create_task(runtime.chat())
        await asyncio.sleep(2.5)  # longer than the watchdog's patience in all
        assert (await runtime.get("/readyz")).status == 200
        assert not waits.done()
        waits.cancel()


async def test_a_busy_engine_that_tells_late_of_its_progress_is_left_alone(tmp_path: Path) -> None:
    """As at saturation: no canary is answered, and two of three looks get no answer in their time."""
    config = build_config(watchdog={**WATCHDOG, "patience": 0.2, "answer": 1})
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(hang=True, moves=True, late_looks=0.5)
        waits = asyncio.create_task(runtime.chat())
        await asyncio.sleep(4)  # longer than the watchdog's patience in all
        assert runtime.process.returncode is None
        assert not any(starts("not ready any more")(line.get("message")) for line in runtime.lines)
        assert not waits.done()
        waits.cancel()


async def test_an_idle_engine_is_asked_for_a_token_now_and_then(tmp_path: Path) -> None:
    async with running(build_config(watchdog=WATCHDOG), tmp_path) as runtime:
        await runtime.wait_ready()
        await runtime.wait_until(lambda: count(runtime, "request") >= 18)
        assert runtime.journal[-1]["path"] == "/v1/completions"
        page = (await runtime.get("/metrics")).body.decode()
        assert 'requests_total{route="/v1/completions"' not in page, "nobody takes it for a user's request"
        assert (await runtime.get("/readyz")).status == 200


async def test_sigterm_ends_a_frozen_pod_in_its_time(tmp_path: Path) -> None:
    config = build_config(
        watchdog={**WATCHDOG, "recovery": 30}, drain={"propagation": 0.1, "longest_request": 0.5, "engine_stop": 0.5}
    )
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        asking = asyncio.create_task(runtime.chat())
        os.kill(engine_pid(runtime), signal.SIGSTOP)
        await wait_frozen(runtime)
        began = time.monotonic()
        runtime.terminate()
        assert await runtime.end() == 0
        assert time.monotonic() - began < 5
        await asyncio.gather(asking, return_exceptions=True)


async def test_an_engine_that_dies_while_it_is_frozen_is_dead(tmp_path: Path) -> None:
    async with running(build_config(watchdog={**WATCHDOG, "recovery": 30}), tmp_path) as runtime:
        await runtime.wait_ready()
        os.kill(engine_pid(runtime), signal.SIGSTOP)
        await wait_frozen(runtime)
        os.kill(engine_pid(runtime), signal.SIGKILL)
        assert await runtime.end() == 10
        assert "killed by signal 9 while frozen" in runtime.last_words


# SIGTERM


async def test_draining_finishes_what_runs(tmp_path: Path) -> None:
    config = build_config(drain={"propagation": 0.5})
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(events=20, event_seconds=0.1)
        async with RawClient.opened(runtime.port) as client:
            await client.send(build_post(STREAM))
            await runtime.wait_until(lambda: count(runtime, "request") == 16)
            runtime.set_faults()
            runtime.terminate()
            await runtime.wait_line(message=starts("draining"))
            assert (await runtime.get("/readyz")).status == 503
            assert (await runtime.get("/healthz")).status == 200
            late = await runtime.chat()
            assert late.status == 200, "until everybody knows, requests still come and are answered"
            runtime.terminate()
            reply = await client.read_reply()
            assert reply.raw_body.endswith(b"0\r\n\r\n")
            assert reply.raw_body.count(b"data: ") == 21
        assert await runtime.end() == 0
        assert count(runtime, "stopped") == 1
        assert runtime.last_words == ""
        assert runtime.lines[-1]["message"].endswith("were cut: 0")


async def test_draining_does_not_wait_for_nobody(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_ready()
        async with RawClient.opened(runtime.port) as idle:
            await idle.ask(build_post(STREAM))
            began = time.monotonic()
            runtime.terminate()
            assert await idle.is_closed()
        assert await runtime.end() == 0
        assert time.monotonic() - began < 2


async def test_requests_that_run_too_long_are_cut(tmp_path: Path) -> None:
    config = build_config(drain={"propagation": 0, "longest_request": 0.5})
    async with running(config, tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(hang=True)
        asking = asyncio.create_task(runtime.chat())
        await runtime.wait_until(lambda: count(runtime, "request") == 16)
        runtime.terminate()
        with pytest.raises(ConnectionError):
            await asking
        assert await runtime.end() == 0
        assert runtime.lines[-1]["message"].endswith("were cut: 1")
        assert count(runtime, "aborted") == 1


async def test_an_engine_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    config = build_config(drain={"propagation": 0, "engine_stop": 0.5})
    async with running(config, tmp_path, ignore_sigterm=True, child=True) as runtime:
        await runtime.wait_ready()
        pid = engine_pid(runtime)
        child = next(entry["pid"] for entry in runtime.journal if entry["event"] == "child")
        runtime.terminate()
        assert await runtime.end() == 0
        assert is_gone(pid)
        await runtime.wait_until(lambda: is_gone(child))


async def test_an_engine_that_dies_while_draining_is_a_failure(tmp_path: Path) -> None:
    async with running(build_config(drain={"propagation": 5}), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.terminate()
        await runtime.wait_line(message=starts("draining"))
        os.kill(engine_pid(runtime), signal.SIGKILL)
        assert await runtime.end() == 10


@pytest.mark.parametrize("stubborn", [False, True])
async def test_sigterm_while_loading_ends_at_once(tmp_path: Path, stubborn: bool) -> None:
    config = build_config(drain={"engine_stop": 1})
    async with running(config, tmp_path, start_seconds=60, ignore_sigterm=stubborn) as runtime:
        await runtime.wait_until(lambda: bool(runtime.journal))
        began = time.monotonic()
        runtime.terminate()
        assert await runtime.end() == 0
        assert time.monotonic() - began < (3 if stubborn else 1)
        assert is_gone(engine_pid(runtime))


async def test_sigterm_while_warming_up_ends_at_once(tmp_path: Path) -> None:
    async with running(build_config(drain={"propagation": 30}), tmp_path, hang=True) as runtime:
        await runtime.wait_until(lambda: count(runtime, "request") == 1)
        runtime.terminate()
        assert await runtime.end() == 0


async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_ready()
        home = runtime.journal[0]["environment"]["HOME"]
        assert os.access(home, os.W_OK)
        runtime.terminate()
        await runtime.end()
        assert not os.access(home, os.F_OK)


# What is never said


async def test_no_log_holds_what_was_asked_or_answered(tmp_path: Path) -> None:
    async with running(build_config(), tmp_path) as runtime:
        await runtime.wait_ready()
        runtime.set_faults(tattle=True)
        assert (await runtime.chat("canary", {"x-request-id": "known"})).status == 200
        runtime.set_faults()
        await runtime.wait_line(source="engine", message=starts("text withheld"))
        assert (await runtime.chat("canary", stream=True)).status == 200
        await fetch_odd(runtime)
        runtime.terminate()
        assert await runtime.end() == 0
        assert "canary" not in runtime.text
        assert "letters" not in runtime.text, "the fake engine's answers hold this word"
        access = [line for line in runtime.lines if line.get("request_id") == "known"]
        assert [(line["route"], line["status"]) for line in access] == [("/v1/chat/completions", 200)]


async def fetch_odd(runtime: RuntimeProcess) -> None:
    await runtime.get("/canary?canary=canary")
    await runtime.chat("canary", messages="canary")
    async with RawClient.opened(runtime.port) as client:
        assert (await client.ask(b"CANARY canary\r\ncanary\r\n\r\n")).status == 400
