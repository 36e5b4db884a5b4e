"""What the process does about its snapshot before, and while, the engine starts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from harness.runtime_process import MODEL, WEIGHTS, build_config, running
from qwenvl_runtime.manifest import FILE, Entry, Manifest, digest_of
from qwenvl_runtime.manifest_command import create

pytestmark = pytest.mark.process
HOURS = 1 << 43
"""Bytes of a file that takes up no room, and that nobody hashes in a minute."""


def fill(folder: Path, **configuration: Any) -> str:
    """A snapshot; returns its digest."""
    (folder / MODEL).mkdir()
    (folder / MODEL / "config.json").write_text(json.dumps(configuration))
    (folder / MODEL / "weights.bin").write_bytes(os.urandom(1000))
    return create(folder / MODEL)[1]


def fill_huge(folder: Path) -> str:
    fill(folder)
    os.truncate(folder / MODEL / "weights.bin", HOURS)
    known = Manifest.parse((folder / MODEL / FILE).read_bytes()).files[0]
    data = Manifest.of([known, Entry(path="weights.bin", size=HOURS, sha256="0" * 64)]).dump()
    (folder / MODEL / FILE).write_bytes(data)
    return digest_of(data)


def write_weights(folder: Path) -> None:
    (folder / MODEL).mkdir(exist_ok=True)
    (folder / MODEL / "config.json").write_text("{}")
    (folder / MODEL / "model.safetensors").write_bytes(WEIGHTS)


def pin(digest: str, **parts: Any) -> Any:
    return build_config(snapshot={"manifest_digest": digest}, media={"max_images": 0}, **parts)


async def test_a_whole_snapshot_is_served_and_reported(tmp_path: Path) -> None:
    async with running(pin(fill(tmp_path)), tmp_path) as runtime:
        await runtime.wait_ready()
        report = await runtime.read_report()
        assert report.snapshot is not None
        assert report.snapshot.verified_at is not None
        assert (report.snapshot.files, report.snapshot.bytes_done) == (2, 1002)
        assert list(report.stages) == ["verify", "engine", "warmup"]


async def test_one_flipped_byte_and_the_engine_is_never_started(tmp_path: Path) -> None:
    digest = fill(tmp_path)
    weights = bytearray((tmp_path / MODEL / "weights.bin").read_bytes())
    weights[500] ^= 1
    (tmp_path / MODEL / "weights.bin").write_bytes(weights)
    async with running(pin(digest), tmp_path) as runtime:
        assert await runtime.end() == 13
        assert runtime.last_words.startswith(
            "SNAPSHOT_INVALID: model is not what its manifest says; of another content"
        )
        assert "weights.bin" in runtime.last_words
        assert runtime.journal == []


async def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    async with running(build_config(engine={"model_path": "/models/none"}), tmp_path) as runtime:
        assert await runtime.end() == 13
        assert runtime.last_words.startswith("SNAPSHOT_INVALID: /models/none is missing")
        assert runtime.journal == []


async def test_another_format_than_declared_is_not_loaded(tmp_path: Path) -> None:
    fill(tmp_path, quantization_config={"quant_method": "awq"})
    async with running(build_config(engine={"quantization": "fp8"}), tmp_path) as runtime:
        assert await runtime.end() == 14
        assert runtime.last_words.startswith("QUANTIZATION_MISMATCH: spec.model.quantization is fp8, and model/config")
        assert runtime.journal == []


async def test_progress_is_told_and_sigterm_ends_the_hashing_at_once(tmp_path: Path) -> None:
    async with running(pin(fill_huge(tmp_path)), tmp_path) as runtime:
        report = await runtime.read_report()
        while report.snapshot is None or report.snapshot.bytes_done < 1 << 20:
            report = await runtime.read_report()
        assert report.snapshot.bytes_total == HOURS + 2
        assert report.snapshot.verified_at is None
        assert report.reason == "the snapshot is being checked"
        ready = await runtime.get("/readyz")
        assert (ready.status, json.loads(ready.body)["phase"]) == (503, "verifying")
        assert (await runtime.get("/healthz")).status == 503
        with pytest.raises(ConnectionRefusedError):
            await runtime.chat()
        runtime.terminate()
        assert await runtime.end() == 0
        assert runtime.last_words == ""


async def test_verifying_is_part_of_the_startup_budget(tmp_path: Path) -> None:
    async with running(pin(fill_huge(tmp_path), startup_budget=0.5), tmp_path) as runtime:
        assert await runtime.end() == 11
        assert "not verified within startup.budget (0.5 s): it was still hashing, " in runtime.last_words
        assert "of 8796.1 GB are hashed" in runtime.last_words


HANGING = f"""
import os
from pathlib import Path

def hang_like_a_lost_server(real):
    def call(path, *rest, **options):
        if Path("hang").exists() and Path("hang").read_text() == real.__name__ and "{MODEL}" in str(path):
            Path("hung").touch()
            os.read(os.pipe()[0], 1)
        return real(path, *rest, **options)
    return call

os.open, os.scandir = hang_like_a_lost_server(os.open), hang_like_a_lost_server(os.scandir)
"""


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a runtime whose reads of the snapshot never return once its file `hang` names the call."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")]))
    return tmp_path


@pytest.mark.parametrize(
    ("pinned", "call", "doing"),
    [
        (False, "open", "reading the headers of the weights\n"),
        (True, "scandir", "listing its files\n"),
        (True, "open", "hashing, 0.0 of 0.0 GB are hashed\n"),
    ],
)
async def test_a_volume_that_hangs_ends_with_the_budget(volume: Path, pinned: bool, call: str, doing: str) -> None:
    write_weights(volume)
    digest = create(volume / MODEL)[1] if pinned else ""
    (volume / "hang").write_text(call)
    async with running(pin(digest, startup_budget=0.5), volume) as runtime:
        assert await runtime.end() == 11
        assert runtime.last_words.endswith(f"startup.budget (0.5 s): it was still {doing}")
        assert runtime.last_words.strip() == runtime.lines[-1]["message"]
        assert runtime.journal == []


async def test_sigterm_ends_a_start_from_a_volume_that_hangs(volume: Path) -> None:
    write_weights(volume)
    (volume / "hang").write_text("open")
    async with running(pin(""), volume) as runtime:
        await runtime.wait_until((volume / "hung").exists)
        runtime.terminate()
        assert await runtime.end() == 0
        assert runtime.lines[-1]["message"] == "stopped while the snapshot was verified"


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_volume_that_hangs_once_the_engine_has_loaded_ends_as_well(volume: Path, stopped: bool) -> None:
    budget = 20 if stopped else 3
    async with running(pin(fill(volume), startup_budget=budget), volume, start_seconds=1) as runtime:
        await runtime.wait_until(lambda: bool(runtime.journal))
        (volume / "hang").write_text("scandir")
        if stopped:
            await runtime.wait_until((volume / "hung").exists)
            runtime.terminate()
        assert await runtime.end() == (0 if stopped else 11)
        assert stopped or "still the same could not be seen within startup.budget (3 s)" in runtime.last_words


async def test_what_changes_while_the_engine_loads_is_not_served(tmp_path: Path) -> None:
    async with running(pin(fill(tmp_path)), tmp_path, start_seconds=1) as runtime:
        await runtime.wait_until(lambda: bool(runtime.journal))
        (tmp_path / MODEL / "weights.bin").write_bytes(bytes(1000))
        assert await runtime.end() == 13
        assert "model has changed while the engine loaded it: weights.bin" in runtime.last_words
        assert not [entry for entry in runtime.journal if entry["event"] == "request"]
