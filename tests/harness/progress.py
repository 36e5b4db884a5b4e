"""What the harness tells the person who waits: what it does, and how long that usually takes."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(doing: str, usually: str = "a second") -> Iterator[None]:
    say(f"==> {doing} (usually {usually})")
    started = time.monotonic()
    yield
    say(f"    done in {time.monotonic() - started:.1f} s")
