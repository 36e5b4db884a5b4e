"""Logging of the operator's process: text on a terminal, one JSON object a line anywhere else."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

TEXT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"

QUIETED = ("kopf.objects", "kopf.activities", "aiohttp.access")
"""Loggers that say something about every event and every probe."""


class JsonFormatter(logging.Formatter):
    """One line per record. `object` is `namespace/name` where the record is about a CR."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        about = getattr(record, "object", None)
        if about is not None:
            line["object"] = str(about)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: the CR that a record is about stands before the message."""

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "object", None)
        line = super().format(record)
        return line if about is None else line.replace(f"{record.name}: ", f"{record.name}: [{about}] ", 1)


def configure_logging(stream: TextIO = sys.stderr) -> None:
    """Send every logger of the process to one stream."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(TEXT) if stream.isatty() else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for name in QUIETED:
        logging.getLogger(name).setLevel(logging.WARNING)
