"""`python -m qwenvl_runtime`: process 1 of the runtime pod."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    # Process 1 without a handler ignores SIGTERM, and what follows takes a moment to import.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from qwenvl_runtime.command import run

    run()


if __name__ == "__main__":
    main()
