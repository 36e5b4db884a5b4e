"""What a node instance leaves when it was not allowed to end properly, found by its name and removed."""

import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from harness import cgroups
from harness.errors import HarnessError
from harness.instance import Instance

SUPERVISOR = "harness.supervisor"
PID_ONE = "harness.pid_one"
_PATIENCE_S = 20.0
_BY_ITSELF_S = 5.0


class LeftoversError(HarnessError):
    """Something of an instance cannot be removed."""


def processes(module: str, instance: Instance) -> list[int]:
    """The processes that run one of the harness's modules for this instance."""
    return [pid for pid, argv in _command_lines() if _runs(argv, module, instance.name)]


def _command_lines() -> list[tuple[int, list[str]]]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
                found.append((int(entry.name), line.split("\0")))
    return found


def _runs(argv: list[str], module: str, name: str) -> bool:
    return any(argv[at : at + 3] == ["-m", module, name] for at in range(len(argv)))


def find(instance: Instance) -> list[str]:
    """Every trace of the instance, in words."""
    found = [f"process {pid}" for module in (SUPERVISOR, PID_ONE) for pid in processes(module, instance)]
    found += [f"cgroup {path}" for path in cgroups.existing(instance.cgroup)]
    if _interface(instance).exists():
        found.append(f"interface {instance.interface}")
    if instance.state.exists():
        found.append(f"folder {instance.state}")
    return found


def remove(instance: Instance) -> None:
    """Remove every trace except the process that calls this."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        for pid in processes(SUPERVISOR, instance):
            if pid != os.getpid():
                _end(pid, deadline)
        # The process 1 first: it is reaped by its parent, which then ends by itself.
        for pid in sorted(processes(PID_ONE, instance), key=lambda pid: not is_process_one(pid)):
            _end(pid, deadline)
        if _interface(instance).exists():
            # The kernel may be faster: it removes the link with the namespace at its other end.
            subprocess.run(["ip", "link", "delete", instance.interface], check=False, capture_output=True)
        cgroups.remove(instance.cgroup)
        shutil.rmtree(instance.state, ignore_errors=True)
        left = [trace for trace in find(instance) if trace != f"process {os.getpid()}"]
        if not left:
            return
        if time.monotonic() > deadline:
            raise LeftoversError(f"Instance {instance.name} cannot be removed: {', '.join(left)} still there")
        time.sleep(0.1)


def is_process_one(pid: int) -> bool:
    """Whether the process is the first one of a PID namespace inside ours."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return line.split()[1:] == [str(pid), "1"]
    return False


def _end(pid: int, deadline: float) -> None:
    """End a process and wait for it: for a process 1, until everything in its namespace has ended."""
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            # A supervisor cleans up and then ends; a process 1 cannot be asked.
            if not is_process_one(pid):
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if _ends(handle, _BY_ITSELF_S):
                    return
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            _ends(handle, max(0.0, deadline - time.monotonic()))
        finally:
            os.close(handle)


def _ends(handle: int, within: float) -> bool:
    return bool(select.select([handle], [], [], within)[0])


def _interface(instance: Instance) -> Path:
    return Path("/sys/class/net") / instance.interface
