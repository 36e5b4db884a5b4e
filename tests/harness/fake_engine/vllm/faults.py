"""What the fake engine does wrong, and what it writes down."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Faults:
    start_seconds: float = 0.0
    start_bytes: int = 0
    """Memory that it takes before it serves."""
    start_failure: str = ""
    """Printed as the engine's error before it ends without having served."""
    ignore_sigterm: bool = False
    child: bool = False
    """Start a child process that outlives the engine."""
    health_status: int = 200
    status: int = 0
    """Answer completions with this status."""
    hang: bool = False
    moves: bool = False
    """Other requests make progress: each look at the metrics finds a token more."""
    late_looks: float = 0.0
    """Seconds by which two of three answers about its health and its metrics are late."""
    die_in_request: bool = False
    """End with code 0, as vLLM does, when a completion is asked for."""
    die_in_answer: bool = False
    """End with code 0 in the middle of a stream."""
    prompt_tokens: int | None = None
    picture_blind: bool = False
    """Count no tokens for pictures, as a broken picture path would."""
    no_choices: bool = False
    nonsense: bool = False
    first_seconds: float = 0.0
    """How much longer the first text and the first picture take."""
    events: int = 5
    all_tokens: bool = False
    """Stream as many events as the request has asked for tokens."""
    event_seconds: float = 0.0
    event_bytes: int = 8
    piece_bytes: int = 0
    """Write streams in pieces of this many bytes, wherever that cuts them."""
    close_after_answer: bool = False
    """Close the connection after an answer without having said so."""
    tattle: bool = False
    """Log the request's text, as some of vLLM's warnings do."""

    @classmethod
    def load(cls) -> Faults:
        try:
            given: dict[str, Any] = json.loads(Path(os.environ["FAKE_ENGINE_FAULTS"]).read_text())
        except (KeyError, FileNotFoundError):
            return cls()
        unknown = set(given) - {field.name for field in fields(cls)}
        if unknown:
            raise SystemExit(f"no such faults: {unknown}")
        return cls(**given)


def keep(faults: str) -> None:
    """Take the faults that the engine was started with for those that hold until others are written."""
    Path(os.environ["FAKE_ENGINE_FAULTS"]).write_text(faults)


def note(event: str, **details: Any) -> None:
    if journal := os.environ.get("FAKE_ENGINE_JOURNAL"):
        with Path(journal).open("a") as file:
            file.write(json.dumps({"event": event, **details}) + "\n")
