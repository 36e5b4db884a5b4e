"""Running other programs: a failure says which command it was and what that printed last."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness.errors import HarnessError

# A command behind this prefix has mounts and processes of its own: what it leaves ends with it, and it ends with us.
PRIVATE = (
    "setpriv", "--pdeathsig", "KILL", "--",
    "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
)  # fmt: skip


class CommandError(HarnessError):
    """A program ended with a code other than 0."""

    def __init__(self, argv: tuple[str, ...], code: int, output: str) -> None:
        self.code = code
        self.output = output
        super().__init__(f"`{' '.join(argv)}` ended with code {code}:\n{output[-4000:].strip()}")


def run(
    *argv: str | Path,
    input: str | None = None,  # noqa: A002 (the name that subprocess gives it)
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float | None = None,
) -> str:
    """Run to the end and return what was printed; `env` is added to the environment."""
    command = tuple(str(part) for part in argv)
    done = subprocess.run(
        command,
        input=input,
        stdin=subprocess.DEVNULL if input is None else None,
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        timeout=timeout,
        check=False,
    )
    if done.returncode:
        raise CommandError(command, done.returncode, done.stdout + done.stderr)
    return done.stdout
