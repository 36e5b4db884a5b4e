"""A warm-up report is read to its end, however it comes over the wire, and no further than a report can be long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from samples import custom_resource, report

from qwenvl_operator import reports
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reports import MAX_BYTES, PodReports, ReportUnreadable

POD: Manifest = {"status": {"podIP": "127.0.0.1"}}
REPORT = report(custom_resource())


@asynccontextmanager
async def answering(monkeypatch: pytest.MonkeyPatch, *segments: bytes) -> AsyncIterator[None]:
    """A pod whose answer comes in several segments."""
    over = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % sum(map(len, segments)))
        # Who has read enough leaves.
        with suppress(ConnectionError):
            for segment in segments:
                writer.write(segment)
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        over.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        monkeypatch.setattr(reports, "MANAGEMENT_PORT", server.sockets[0].getsockname()[1])
        yield
        await over.wait()


async def test_a_report_in_two_segments_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    body = REPORT.model_dump_json().encode()
    async with answering(monkeypatch, body[:100], body[100:]):
        assert await PodReports().read(POD) == REPORT


async def test_what_is_longer_than_a_report_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    padded = REPORT.model_dump_json().encode() + b" " * MAX_BYTES + b"{}"
    async with answering(monkeypatch, padded):
        assert await PodReports().read(POD) == REPORT, "what comes after it is not read"
    async with answering(monkeypatch, b"[" * MAX_BYTES * 2):
        with pytest.raises(ReportUnreadable, match="something else than a report"):
            await PodReports().read(POD)
