"""An apiserver's audit log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class AuditLog:
    """Each line is parsed once, however often tests look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._events: list[dict[str, Any]] = []
        self._read = 0

    def read(self) -> list[dict[str, Any]]:
        with self._path.open("rb") as log:
            log.seek(self._read)
            news = log.read()
        whole = news[: news.rfind(b"\n") + 1]
        self._read += len(whole)
        self._events += map(json.loads, whole.splitlines())
        return list(self._events)
