"""How findings are printed."""

from __future__ import annotations

from qwenvl_operator.doctor.command import describe
from qwenvl_operator.doctor.findings import Heading, fail, ok, warn

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
