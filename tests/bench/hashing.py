"""How fast a snapshot is verified, beside what its disk and a plain sha256sum need for the same files."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.report import Goal, Part, render_table
from harness.cache import cache_folder
from harness.progress import step
from qwenvl_runtime.hashing import Progress, hash_files

_FILES = 4
_BYTES = 256 << 20
_ROUNDS = 5
_COLD_ROUNDS = 3

Arm = Callable[[list[Path]], object]


def run_hashing() -> Part:
    with tempfile.TemporaryDirectory(dir=cache_folder()) as name:
        files = [write(Path(name, f"{number}.safetensors")) for number in range(_FILES)]
        with step(f"Hashing {_FILES} files of 256 MiB, {_ROUNDS} rounds", "30 s"):
            one = take_turns({"ours": hash_all, "sha256sum": run_sha256sum}, files[:1], _ROUNDS)
            many = take_turns({"ours": hash_all, "sha256sum": run_sha256sum}, files, _ROUNDS)
            cold = take_turns({"ours": hash_all, "dd": run_dd}, files, _COLD_ROUNDS, before=drop)
    cores = min(_FILES, len(os.sched_getaffinity(0)))
    slower = max(cold["dd"], many["ours"])
    goals = [
        Goal("time for one file over sha256sum's", 1.1, one["ours"] / one["sha256sum"], ""),
        Goal(
            f"speed for {_FILES} files over sha256sum's", 0.8 * cores, many["sha256sum"] / many["ours"], "", least=True
        ),
        Goal("time from disk over the longer of dd's and our own from memory", 1.5, cold["ours"] / slower, ""),
    ]
    unit = one["sha256sum"]
    rows = [
        ["one file", "sha256sum", "1.00"],
        ["one file", "qwenvl", f"{one['ours'] / unit:.2f}"],
        [f"{_FILES} files", "sha256sum", f"{many['sha256sum'] / unit:.2f}"],
        [f"{_FILES} files", "qwenvl", f"{many['ours'] / unit:.2f}"],
        [f"{_FILES} files from disk", "dd, which only reads", f"{cold['dd'] / unit:.2f}"],
        [f"{_FILES} files from disk", "qwenvl", f"{cold['ours'] / unit:.2f}"],
    ]
    title = f"On {cores} cores, in times of sha256sum for one file"
    return Part("hashing", goals, [render_table(title, ["files of 256 MiB", "by", "time"], rows)])


def take_turns(
    arms: dict[str, Arm], files: list[Path], rounds: int, before: Callable[[Path], None] = lambda _: None
) -> dict[str, float]:
    """The median time of each arm."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            for file in files:
                before(file)
            began = time.monotonic()
            arm(files)
            seconds[name].append(time.monotonic() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def write(path: Path) -> Path:
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for number in range(_BYTES >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])
        os.fsync(file.fileno())
    return path


def drop(path: Path) -> None:
    """Out of the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hash_all(files: list[Path]) -> None:
    hash_files({path.name: path for path in files}, Progress())


def run_sha256sum(files: list[Path]) -> None:
    subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL)


def run_dd(files: list[Path]) -> None:
    for path in files:
        subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=4M", "status=none"], check=True)
