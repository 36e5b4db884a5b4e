"""Checks what the operator needs of a cluster, or explains what is wrong with one QwenVLDeployment. It writes nothing,
and goes by the rights of whoever calls it."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict

from qwenvl_operator.cluster import KubernetesCluster, open_client
from qwenvl_operator.doctor.cluster_checks import check_cluster
from qwenvl_operator.doctor.findings import Finding, Level
from qwenvl_operator.doctor.reader import read_cluster, read_resource
from qwenvl_operator.doctor.resource_checks import check_resource
from qwenvl_operator.errors import ApiError, StartError
from qwenvl_operator.kubeconfig import default_namespace
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Key

WELL, UNWELL, UNKNOWN = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a QwenVLDeployment; left out: the cluster")
    parser.add_argument(
        "-n", "--namespace", help="of the resource (default: the context's), or the only one to look at"
    )
    parser.add_argument("--operator-namespace", default="", help="where the operator runs (default: looked for)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """0: no check failed; 1: one did; 2: the API server cannot be asked, or answers no more than its version."""
    try:
        findings = asyncio.run(_examine(arguments))
    except (StartError, ApiError) as error:
        print(f"error: the API server cannot be asked: {error}", file=sys.stderr)
        return UNKNOWN
    if arguments.output == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(describe(findings, width)))
    if any(finding.level is Level.FAIL for finding in findings):
        return UNWELL
    _, *others = findings
    if all(finding.level is Level.SKIPPED for finding in others):
        lacking = "; ".join(dict.fromkeys(finding.said for finding in others))
        print(f"error: nothing could be checked: {lacking}", file=sys.stderr)
        return UNKNOWN
    return WELL


def describe(findings: list[Finding], width: int | None = None) -> Iterator[str]:
    """A line for each finding, under it what to do, and at the end how many failed.

    Lines are folded to the width of a terminal; what a program reads is not.
    """
    column = max(len(finding.about) for finding in findings)
    margin = " " * (column + 10)
    for finding, following in zip(findings, [*findings[1:], None], strict=True):
        said = " ".join(finding.said.split())
        yield _fold(f"{finding.level:<8}{finding.about:<{column}}  {said}", margin, width)
        advice = _advice(finding)
        # Several findings of one kind in a row have one piece of advice.
        if advice and (following is None or (following.about, _advice(following)) != (finding.about, advice)):
            yield _fold(f"{margin}-> {advice}", f"{margin}   ", width)
    counts = Counter(finding.level for finding in findings)
    yield ""
    yield ", ".join(f"{counts[level]} {level}" for level in (Level.FAIL, Level.WARN, Level.SKIPPED, Level.OK))


def _advice(finding: Finding) -> str:
    return "; ".join(filter(None, (finding.advice, finding.see)))


def _fold(line: str, margin: str, width: int | None) -> str:
    if width is None or len(margin) >= width // 2:
        return line
    return textwrap.fill(line, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False)


async def _examine(arguments: argparse.Namespace) -> list[Finding]:
    async with open_client() as client:
        metrics = Metrics()

        def connect(namespace: str) -> KubernetesCluster:
            return KubernetesCluster(client, metrics, namespaces=(namespace,) if namespace else ())

        namespace = arguments.namespace or (default_namespace() if arguments.name else "")
        cluster = await read_cluster(
            connect, namespace=namespace, operator_namespace=arguments.operator_namespace, now=time.time()
        )
        if not arguments.name:
            return list(check_cluster(cluster))
        key = Key(namespace, arguments.name)
        return list(check_resource(key, cluster, await read_resource(connect, key)))
