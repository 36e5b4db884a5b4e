"""The cgroup that a node's pods live under: made in every hierarchy, and removed with everything below it."""

import os
import signal
from contextlib import suppress
from pathlib import Path


def hierarchies(mounts: str) -> list[Path]:
    """Where cgroups of either version are mounted, from the text of /proc/mounts."""
    rows = [line.split() for line in mounts.splitlines()]
    return [Path(row[1]) for row in rows if row[2] in {"cgroup", "cgroup2"}]


def _roots(name: str) -> list[Path]:
    return [hierarchy / name for hierarchy in hierarchies(Path("/proc/mounts").read_text())]


def create(name: str) -> None:
    for root in _roots(name):
        root.mkdir(exist_ok=True)
        # A version 1 cpuset starts empty and takes no process until it is given processors and memory.
        for setting in ("cpuset.cpus", "cpuset.mems"):
            file = root / setting
            if file.exists() and not (root / "cgroup.controllers").exists():
                file.write_text((root.parent / setting).read_text())


def existing(name: str) -> list[Path]:
    return [root for root in _roots(name) if root.exists()]


def remove(name: str) -> bool:
    """Kill what still runs in it and remove what is empty; False while something is left."""
    for root in existing(name):
        for folder, _, _ in os.walk(root, topdown=False):
            for pid in _processes(Path(folder)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(OSError):
                Path(folder).rmdir()
    return not existing(name)


def _processes(folder: Path) -> list[int]:
    with suppress(OSError):
        return [int(pid) for pid in (folder / "cgroup.procs").read_text().split() if pid != "0"]
    return []
