"""A warm-up report is read to its end, however it comes over the wire, and no further than a report can be long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from samples import custom_resource, report

from qwenvl_operator.objects import Manifest
from qwenvl_operator.reports import MAX_BYTES, PodReports, ReportUnreadable, port_of

REPORT = report(custom_resource())


def build_pod(*ports: Manifest) -> Manifest:
    containers = [{"name": "sidecar", "ports": [{"name": "management", "containerPort": 2}]}]
    containers += [{"name": "runtime", "ports": list(ports)}]
    return {"spec": {"containers": containers}, "status": {"podIP": "127.0.0.1"}}


@asynccontextmanager
async def answering(*segments: bytes) -> AsyncIterator[Manifest]:
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
        port = server.sockets[0].getsockname()[1]
        yield build_pod({"name": "http", "containerPort": 1}, {"name": "management", "containerPort": port})
        await over.wait()


async def test_a_report_in_two_segments_is_read_to_its_end() -> None:
    body = REPORT.model_dump_json().encode()
    async with answering(body[:100], body[100:]) as pod:
        assert await PodReports().read(pod) == REPORT


async def test_what_is_longer_than_a_report_is_none() -> None:
    padded = REPORT.model_dump_json().encode() + b" " * MAX_BYTES + b"{}"
    async with answering(padded) as pod:
        assert await PodReports().read(pod) == REPORT, "what comes after it is not read"
    async with answering(b"[" * MAX_BYTES * 2) as pod:
        with pytest.raises(ReportUnreadable, match="something else than a report"):
            await PodReports().read(pod)


def test_a_pod_from_before_the_management_port_is_asked_on_its_only_one() -> None:
    assert port_of(build_pod({"name": "http", "containerPort": 8000})) == 8000
    assert (
        port_of(build_pod({"name": "http", "containerPort": 8000}, {"name": "management", "containerPort": 8001}))
        == 8001
    )
