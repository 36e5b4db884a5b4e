"""`python -m bench`: measure, print what was measured, and write it to docs/benchmarks.md."""

from __future__ import annotations

import argparse
import signal
import sys
from functools import partial

from bench.clients import BadAnswerError
from bench.hashing import run_hashing
from bench.relay import run_relay
from bench.report import PAGE, place
from bench.scale import RESOURCES, run_scale
from bench.start import run_start
from bench.tokens import run_tokens
from harness.errors import HarnessError
from harness.progress import say

PARTS = {"relay": run_relay, "tokens": run_tokens, "start": run_start, "hashing": run_hashing, "scale": run_scale}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=PARTS, metavar="PART", help=f"some of: {', '.join(PARTS)}")
    parser.add_argument("--resources", type=int, default=RESOURCES, help="how many `scale` brings up")
    parser.add_argument("--dry", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    runs = PARTS | {"scale": partial(run_scale, arguments.resources)}
    # Who ends the command ends what it started: the relays, the node.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    missed = 0
    try:
        for name in arguments.parts or PARTS:
            part = runs[name]()
            print(part.render())
            missed += sum(not goal.met for goal in part.goals)
            if not arguments.dry:
                PAGE.write_text(place(PAGE.read_text(), part))
    except (BadAnswerError, HarnessError) as error:
        say(f"error: {error}")
        return 1
    if missed:
        say(f"{missed} goals are missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
