"""Logging: JSON for machines, text for people."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from qwenvl_operator.logs import configure_logging


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_where_nobody_looks() -> None:
    stream = io.StringIO()
    configure_logging(stream)
    logger = logging.getLogger("qwenvl_operator.test")
    logger.warning("next try in %.1f s:\n%s", 1.0, "busy", extra={"object": "ai/reports"})
    try:
        raise ValueError("a bug")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "qwenvl_operator.test",
        "message": "next try in 1.0 s:\nbusy",
        "object": "ai/reports",
    }
    assert "ValueError: a bug" in second["exception"]


def test_text_on_a_terminal() -> None:
    stream = Terminal()
    configure_logging(stream)
    logging.getLogger("qwenvl_operator.test").info("applied", extra={"object": "ai/reports"})
    assert stream.getvalue().endswith("INFO    qwenvl_operator.test: [ai/reports] applied\n")


@pytest.mark.parametrize("name", ["kopf.objects", "kopf.activities.probe", "aiohttp.access"])
def test_what_is_said_at_every_event_and_probe_is_left_out(name: str) -> None:
    stream = io.StringIO()
    configure_logging(stream)
    logging.getLogger(name).info("again")
    assert stream.getvalue() == ""
