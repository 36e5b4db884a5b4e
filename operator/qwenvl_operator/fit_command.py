"""Says whether the model fits the hardware, with the numbers: of resources in a file, or as a table of all there is.

Of the rules for a resource it knows those of the name, of each field, and of what has to fit; the API server's rules
between fields are checked by it alone, as with `kubectl apply --dry-run=server`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from qwenvl_operator.api.v1alpha1 import API_VERSION, KIND, MAX_NAME_LENGTH, NAME
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import InvalidSpec
from qwenvl_operator.fit import COUNTS, check
from qwenvl_operator.fitness import check_spec
from qwenvl_operator.footprint import Demand
from qwenvl_operator.presets import ACCELERATORS, FORMATS, Accelerator

FITS, DOES_NOT_FIT, UNREADABLE = 0, 1, 2
BAD_NAME = (
    "metadata.name must start with a letter, have only lower-case letters, digits and '-' after it, and at most "
    f"{MAX_NAME_LENGTH} characters."
)
TABLE_DEMAND = Demand(max_model_len=16384, max_num_seqs=16, max_pixels=2_097_152)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-f", "--filename", action="append", help="YAML with QwenVLDeployments; - reads standard input")
    what.add_argument("--table", action="store_true", help="each weight format on each accelerator, in Markdown")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text")


def run(arguments: argparse.Namespace) -> int:
    """0: all fit or are not checked; 1: one does not fit or is invalid; 2: a file cannot be read."""
    if arguments.table and arguments.output == "json":
        print("error: the table is Markdown alone: leave out -o json", file=sys.stderr)
        return UNREADABLE
    if arguments.table:
        print("\n".join(build_table()))
        return FITS
    documents: list[Any] = []
    for name in arguments.filename:
        try:
            documents += _read(name)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            print(f"error: {name} cannot be read: {error}", file=sys.stderr)
            return UNREADABLE
    resources = [document for document in documents if isinstance(document, dict) and document.get("kind") == KIND]
    if not resources:
        print(f"error: there is no {KIND} in {', '.join(arguments.filename)}", file=sys.stderr)
        return UNREADABLE
    verdicts = [_judge(resource) for resource in resources]
    if arguments.output == "json":
        print(json.dumps(verdicts, indent=2))
    else:
        print("\n".join(line for verdict in verdicts for line in _describe(verdict)))
    return FITS if all(verdict["fits"] is not False for verdict in verdicts) else DOES_NOT_FIT


def build_table() -> Iterator[str]:
    """KV tokens by accelerator, GPUs and weight format, with `ep` where only expert parallel runs; a dash where that
    does not fit."""
    yield f"| GPUs | {' | '.join(FORMATS)} |"
    yield "| --- |" + " ---: |" * len(FORMATS)
    for gpu in ACCELERATORS.values():
        for count in COUNTS[:3]:
            cells = [_tokens(replace(TABLE_DEMAND, weights=weights, count=count), gpu) for weights in FORMATS]
            yield f"| {count}x {gpu.name} | {' | '.join(cells)} |"


def _tokens(demand: Demand, gpu: Accelerator) -> str:
    for how, changed in (("", demand), (" ep", replace(demand, split_experts=False))):
        if (fit := check(changed, gpu)).fits:
            return f"{fit.kv_tokens:,}{how}"
    return "-"


def _read(name: str) -> Iterator[Any]:
    """Every document, and what is in lists, as `kubectl get -o yaml` writes them."""
    text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    for document in yaml.safe_load_all(text):
        items = document.get("items") if isinstance(document, dict) else None
        yield from items if isinstance(items, list) else [document]


def _judge(resource: dict[str, Any]) -> dict[str, Any]:
    metadata = resource.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    name = str(metadata.get("name") or "(without a name)")
    if resource.get("apiVersion") != API_VERSION:
        return {"name": name, "fits": False, "message": f"apiVersion must be {API_VERSION}."}
    if metadata.get("name") and not (len(name) <= MAX_NAME_LENGTH and re.fullmatch(NAME, name)):
        return {"name": name, "fits": False, "message": BAD_NAME}
    identity = {"namespace": "default", "uid": "", "generation": 1, **metadata, "name": name}
    try:
        cr = CustomResource.parse({**resource, "metadata": identity})
    except InvalidSpec as error:
        return {"name": name, "fits": False, "message": error.message}
    fit = check_spec(cr.spec)
    if isinstance(fit, str):
        return {"name": name, "fits": None, "message": fit}
    numbers = {
        "weightsGiB": round(fit.weights, 2),
        "encoderGiB": round(fit.encoder, 2),
        "overheadGiB": round(fit.overhead, 2),
        "kvCacheTokens": fit.kv_tokens,
        "picturesPerRequest": fit.pictures,
        "kernel": fit.kernel,
    }
    verdict = {"name": name, "fits": fit.fits, "message": fit.message, "warnings": list(fit.warnings)}
    return {**verdict, **numbers} if fit.weights else verdict


def _describe(verdict: dict[str, Any]) -> Iterator[str]:
    words = {True: "fits", False: "does not fit", None: "not checked"}
    yield f"{verdict['name']}: {words[verdict['fits']]}"
    yield f"  {verdict['message']}"
    if "kvCacheTokens" in verdict:
        yield (
            f"  on each GPU: weights {verdict['weightsGiB']} GiB, working memory {verdict['overheadGiB']} GiB"
            f" (of which the vision encoder {verdict['encoderGiB']}); experts by {verdict['kernel']}"
        )
        yield f"  largest pictures in one request: {verdict['picturesPerRequest']}"
    yield from (f"  warning: {warning}" for warning in verdict.get("warnings", ()))
