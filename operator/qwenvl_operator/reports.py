"""Reads the warm-up report of a runtime pod, straight from the pod's own address."""

from __future__ import annotations

from typing import Protocol

import aiohttp
from pydantic import ValidationError

from qwenvl_operator.naming import MANAGEMENT
from qwenvl_operator.objects import Manifest
from qwenvl_operator.pods import runtime_of
from qwenvl_runtime.config import PORT, WarmupReport

TIMEOUT = aiohttp.ClientTimeout(total=3)
MAX_BYTES = 64 * 1024


class ReportUnreadable(Exception):  # noqa: N818 - what is said about a pod, not a fault of the operator
    """The report could not be read; the message says from where and why."""


class Reports(Protocol):
    """Where warm-up reports come from."""

    async def read(self, pod: Manifest) -> WarmupReport:
        """Raises ReportUnreadable."""


class PodReports:
    """Reads them over HTTP."""

    async def read(self, pod: Manifest) -> WarmupReport:
        address = pod.get("status", {}).get("podIP")
        if not address:
            raise ReportUnreadable("the pod has no address yet.")
        host = f"[{address}]" if ":" in address else address
        port = port_of(pod)
        url = f"http://{host}:{port}/warmup"
        try:
            # A proxy that the environment names must never be asked about a pod's address.
            async with (
                aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
                session.get(url, allow_redirects=False) as response,
            ):
                body = await _read_body(response.content)
                if response.status != 200:
                    raise ReportUnreadable(f"{url} answers {response.status}.")
                return WarmupReport.model_validate_json(body)
        except ValidationError as error:
            raise ReportUnreadable(f"{url} answers something else than a report.") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ReportUnreadable(
                f"{url}: {type(error).__name__}: {error}. The operator must be let in to the pod's port {port}."
            ) from error


def port_of(pod: Manifest) -> int:
    """Where a pod has its report: one whose template was recorded before there was a management port has no other."""
    ports = {port.get("name"): int(port["containerPort"]) for port in runtime_of(pod).get("ports", ())}
    return ports.get(MANAGEMENT, PORT)


async def _read_body(content: aiohttp.StreamReader) -> bytes:
    """The whole of it, which may come in many pieces, or its first MAX_BYTES."""
    body = b""
    while len(body) < MAX_BYTES and (piece := await content.read(MAX_BYTES - len(body))):
        body += piece
    return body
