"""Process 1 of a node: prepares the namespaces it was started in, then keeps the node's programs running.

Everything of the node is its child, so the kernel ends the node with it.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_RESTART_AFTER_S = 0.5
_POLL_S = 0.1
_MOST_ENDS_AT_START = 10


@dataclass(frozen=True)
class Component:
    """A program that runs as long as the node; `ready` is where it answers before the next one starts."""

    name: str
    argv: list[str]
    ready: str = ""


@dataclass(frozen=True)
class Plan:
    setup: Sequence[Sequence[str]]
    components: Sequence[Component]
    logs: str
    authority: str

    def written(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def read(cls, text: str) -> "Plan":
        fields = json.loads(text)
        return cls(**{**fields, "components": [Component(**component) for component in fields["components"]]})


def start(component: Component, logs: Path) -> int:
    log = logs / f"{component.name}.log"
    # Not by subprocess: it would reap behind our back.
    return os.posix_spawn(
        component.argv[0],
        component.argv,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )


def answers(address: str, authority: str) -> bool:
    """A Unix socket takes a connection, or a URL answers 200."""
    try:
        if address.startswith("https://"):
            context = ssl.create_default_context(cafile=authority)
            with urllib.request.urlopen(address, timeout=2, context=context):
                return True
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(address)
            return True
    except OSError:
        return False


def keep_running(plan: Plan) -> None:
    logs = Path(plan.logs)
    running: dict[int, Component] = {}
    for component in plan.components:
        running[start(component, logs)] = component
        ends = 0
        while component.ready and not answers(component.ready, plan.authority):
            ends += restart_ended(running, logs)
            if ends > _MOST_ENDS_AT_START:
                sys.exit(f"{component.name} does not start")
            time.sleep(_POLL_S)
    while True:
        restart_ended(running, logs)
        time.sleep(_POLL_S)


def restart_ended(running: dict[int, Component], logs: Path) -> int:
    """Reap every process that ended, the node's orphans too, and start again what has to run; how many those were."""
    ends = 0
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return ends
        if component := running.pop(pid, None):
            print(f"{component.name} ended with {status}; starting it again", flush=True)
            time.sleep(_RESTART_AFTER_S)
            running[start(component, logs)] = component
            ends += 1


def main() -> None:
    # The first argument is the instance's name, by which the process is found.
    plan = Plan.read(Path(sys.argv[2]).read_text())
    for command in plan.setup:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    keep_running(plan)


if __name__ == "__main__":
    main()
