"""What the process asks of the system before it serves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from qwenvl_runtime.command import end
from qwenvl_runtime.ending import Ending, ExitCode

_BODIES = """
import resource
from qwenvl_runtime.command import keep_memory

def take_body():
    pieces = [bytes(1 << 20) for _ in range(4)]
    return b"".join(pieces)

keep_memory()
for _ in range(3):
    take_body()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    take_body()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_the_memory_of_one_body_serves_the_next() -> None:
    run = subprocess.run([sys.executable, "-c", _BODIES], check=True, capture_output=True, text=True)
    assert int(run.stdout) < 1000, "8 MB in 20 rounds are 40,000 pages"


def test_last_words_may_quote_what_is_not_unicode(tmp_path: Path) -> None:
    log = tmp_path / "termination-log"
    log.touch()
    assert end(Ending(ExitCode.SNAPSHOT_INVALID, "\udcff.safetensors is cut short"), log) == 13
    assert log.read_text() == "SNAPSHOT_INVALID: \\udcff.safetensors is cut short\n"
