"""The process that owns a node: starts it in namespaces of its own, and removes every trace when either of them ends.

Who starts it holds its standard input, and says there when to START the node and whether to KEEP it. When that ends
without KEEP, so does the node, and so do the files that were written for it.
"""

import os
import selectors
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from harness import cgroups, leftovers
from harness.commands import PRIVATE
from harness.instance import Instance

START = b"s"
KEEP = b"k"


class _Stop(BaseException):
    """Somebody asked this process to end."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


def start_node(instance: Instance) -> subprocess.Popen[bytes]:
    cgroups.create(instance.cgroup)
    command = (*PRIVATE[:-1], "--net", "--", sys.executable, "-m", leftovers.PID_ONE, instance.name)
    # The host's network namespace goes in as standard input: process 1 puts the other end of its link there.
    with Path("/proc/self/ns/net").open() as host_network:
        return subprocess.Popen((*command, str(instance.state / "plan.json")), stdin=host_network)


def wait_until_ended(node: subprocess.Popen[bytes]) -> None:
    """Until the node ends, or who started it does without having said KEEP."""
    with selectors.DefaultSelector() as selector:
        selector.register(os.pidfd_open(node.pid), selectors.EVENT_READ)
        selector.register(0, selectors.EVENT_READ)
        while node.poll() is None:
            for key, _ in selector.select():
                if key.fd == 0:
                    if os.read(0, 1) != KEEP:
                        return
                    selector.unregister(0)


def main() -> None:
    instance = Instance(sys.argv[1])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    node = None
    try:
        if os.read(0, 1) == START:
            node = start_node(instance)
            wait_until_ended(node)
    except _Stop:
        pass
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        leftovers.remove(instance)
        if node:
            node.wait()


if __name__ == "__main__":
    main()
