"""JSON lines on standard output: one object per log record, per answered request and per line of the engine."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any

import orjson

_waiting: list[bytes] = []
"""Lines for the next flush. Standard output's own buffer is none where PYTHONUNBUFFERED is set, as in the image."""
_flushing = threading.Lock()


def set_up_logging(level: int = logging.INFO) -> None:
    handler = logging.Handler()
    handler.emit = _emit_record  # type: ignore[method-assign]
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """In place of asyncio's own handler, which prints tasks with the text of their exceptions."""
    # A message may go on with a callback and all that it is called with: a request.
    message = " ".join(str(context["message"]).split()[:3])
    logging.getLogger("asyncio").error("%s", message, exc_info=context.get("exception"))


def write_line(source: str, level: str, message: str, **fields: Any) -> None:
    """One line; `fields` must never hold a request's content."""
    add_line(source, level, message, **fields)
    flush_lines()


def add_line(source: str, level: str, message: str, **fields: Any) -> None:
    """The same for lines that come by the thousand: it goes out with the next flush, at the process's end at last."""
    line = {"time": datetime.now(UTC), "level": level, "source": source, "message": message, **fields}
    _waiting.append(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z))


def flush_lines() -> None:
    with _flushing:
        lines = _waiting[:]
        del _waiting[: len(lines)]
        left = memoryview(b"".join(lines))
        while left:
            left = left[sys.stdout.buffer.write(left) :]
        sys.stdout.buffer.flush()


def _emit_record(record: logging.LogRecord) -> None:
    fields: dict[str, Any] = {"logger": record.name}
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = record.exc_info[0].__name__
        fields["where"] = _find_place(record.exc_info[2])
    write_line("runtime", record.levelname.lower(), record.getMessage(), **fields)


def _find_place(traceback: Any) -> str:
    """File and line of the innermost frame: an exception's own text might quote a request."""
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return f"{traceback.tb_frame.f_code.co_filename}:{traceback.tb_lineno}" if traceback is not None else ""
