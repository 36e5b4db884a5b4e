"""How findings are printed."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pytest

from qwenvl_operator.doctor import command
from qwenvl_operator.doctor.command import describe
from qwenvl_operator.doctor.findings import Finding, Heading, fail, ok, skipped, warn
from qwenvl_operator.doctor.readings import Unread

FINDINGS = [
    ok("API server", "v1.34.4"),
    fail("nodes", "none of 2 has the label zone=b", "correct it", "Unschedulable"),
    warn("event", "reports-1, 3 s ago, FailedMount: no such\nfolder", "kubectl describe pod", Heading.RESOURCE),
    warn("event", "reports-1, 1 s ago, Failed: no", "kubectl describe pod", Heading.RESOURCE),
]


def test_each_finding_is_a_line_with_what_to_do_below_it() -> None:
    assert list(describe(FINDINGS)) == [
        "ok      API server  v1.34.4",
        "FAIL    nodes       none of 2 has the label zone=b",
        "                    -> correct it; docs/troubleshooting.md#unschedulable",
        "warn    event       reports-1, 3 s ago, FailedMount: no such folder",
        "warn    event       reports-1, 1 s ago, Failed: no",
        "                    -> kubectl describe pod; docs/troubleshooting.md#a-resource",
        "",
        "1 FAIL, 2 warn, 0 skipped, 1 ok",
    ]


def test_on_a_terminal_a_long_line_goes_on_below_its_beginning() -> None:
    lines = "\n".join(describe(FINDINGS[:2], 50)).splitlines()
    assert lines[1:3] == [
        "FAIL    nodes       none of 2 has the label zone=b",
        "                    -> correct it;",
    ]
    assert all(len(line) <= 50 or " " not in line.strip() for line in lines)


NODES, PODS = (skipped(about, Unread(f"needs: list {about}")) for about in ("nodes", "pods"))
CODES = {
    "well": ([FINDINGS[0], ok("CRD", "is there"), NODES], 0),
    "a warning": ([FINDINGS[0], FINDINGS[2]], 0),
    "a failure": (FINDINGS, 1),
    "too old, and nothing else seen": ([fail("API server", "is v1.29", "upgrade", Heading.API_SERVER), NODES], 1),
    "nothing seen": ([FINDINGS[0], NODES, PODS, NODES], 2),
}


@pytest.mark.parametrize(("findings", "code"), CODES.values(), ids=CODES)
def test_the_exit_code_says_whether_a_check_failed_or_none_was_made(
    findings: list[Finding], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def examine(_: Any) -> list[Finding]:
        return findings

    monkeypatch.setattr(command, "_examine", examine)
    assert command.run(argparse.Namespace(output="json")) == code
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) == len(findings)
    assert printed.err == (
        "error: nothing could be checked: needs: list nodes; needs: list pods\n" if code == 2 else ""
    )
