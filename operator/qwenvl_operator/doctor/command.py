"""Checks what the operator needs of a cluster, or explains what is wrong with one QwenVLDeployment. It writes nothing,
and goes by the rights of whoever calls it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
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
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.objects import Key

WELL, UNWELL, UNREACHABLE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="a QwenVLDeployment; left out: the cluster")
    parser.add_argument("-n", "--namespace", help="of the resource (default: default), or the only one to look at")
    parser.add_argument("--operator-namespace", default="", help="where the operator runs (default: looked for)")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """0: no check failed; 1: one did; 2: the cluster cannot be reached."""
    try:
        findings = asyncio.run(_examine(arguments))
    except (StartError, ApiError) as error:
        print(f"error: the API server cannot be asked: {error}", file=sys.stderr)
        return UNREACHABLE
    if arguments.output == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print("\n".join(describe(findings)))
    return UNWELL if any(finding.level is Level.FAIL for finding in findings) else WELL


def describe(findings: list[Finding]) -> Iterator[str]:
    """A line for each finding, under it what to do, and at the end how many failed."""
    width = max(len(finding.about) for finding in findings)
    for finding in findings:
        yield f"{finding.level:<8}{finding.about:<{width}}  {' '.join(finding.said.split())}"
        if finding.see:
            advice = f"{finding.advice}; {finding.see}" if finding.advice else finding.see
            yield f"{'':<{width + 8}}  -> {advice}"
    counts = Counter(finding.level for finding in findings)
    yield ""
    yield ", ".join(f"{counts[level]} {level}" for level in (Level.FAIL, Level.WARN, Level.SKIPPED, Level.OK))


async def _examine(arguments: argparse.Namespace) -> list[Finding]:
    async with open_client() as client:
        metrics = Metrics()

        def connect(namespace: str) -> KubernetesCluster:
            return KubernetesCluster(client, metrics, namespaces=(namespace,) if namespace else ())

        namespace = arguments.namespace or ("default" if arguments.name else "")
        cluster = await read_cluster(
            connect, namespace=namespace, operator_namespace=arguments.operator_namespace, now=time.time()
        )
        if not arguments.name:
            return list(check_cluster(cluster))
        key = Key(namespace, arguments.name)
        return list(check_resource(key, cluster, await read_resource(connect, key)))
