"""A user's own engine arguments: how one is read, and which may not be added, because the operator sets them itself or
they would open the pod.

The operator checks the CR with it, the runtime its own configuration. Only the standard library may be imported here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

OWNED = {
    "--allowed-media-domains": "pictures come inline only",
    "--api-key": "the engine is reachable through the front only",
    "--api-server-count": "one API server per pod, so that the warm-up reaches it",
    "--config": "a file could set any other argument",
    "--disable-fastapi-docs": "set by the operator",
    "--disable-log-stats": "the watchdog sees by them that the engine works",
    "--disable-uvicorn-access-log": "set by the operator",
    "--enforce-eager": "set spec.engine.cudaGraphs",
    "--fingerprint-mode": "set by the operator",
    "--gpu-memory-utilization": "set spec.engine.gpuMemoryUtilization",
    "--grpc": "the front owns the pod's ports",
    "--grpc-port": "the front owns the pod's ports",
    "--headless": "one engine per pod",
    "--help": "the engine would print it and end",
    "--host": "the front owns the pod's ports",
    "--limit-mm-per-prompt": "set spec.media.maxImages and maxVideos",
    "--master-addr": "one engine per pod",
    "--master-port": "one engine per pod",
    "--max-model-len": "set spec.engine.maxModelLen",
    "--max-num-seqs": "set spec.engine.maxNumSeqs",
    "--mm-encoder-tp-mode": "set by the operator",
    "--mm-processor-kwargs": "set spec.media.maxPixels",
    "--model": "set spec.model.source",
    "--nnodes": "one engine per pod",
    "--node-rank": "one engine per pod",
    "--pipeline-parallel-size": "the model is split over all GPUs by tensor parallelism",
    "--port": "the front owns the pod's ports",
    "--root-path": "the front owns the paths",
    "--served-model-name": "set spec.model.servedName",
    "--shutdown-timeout": "set spec.drain",
    "--tensor-parallel-size": "set spec.hardware.accelerator.count",
    "--tokens-only": "the front serves the OpenAI routes",
    "--uds": "the front owns the engine's socket",
    "--uvicorn-log-level": "set by the operator",
}
UNSAFE = {
    "--allowed-local-media-path": "requests could read the pod's files",
    "--ec-transfer-config": "opens the network to the engine",
    "--enable-log-outputs": "logs answers",
    "--enable-log-requests": "logs prompts",
    "--enable-mm-embeds": "requests could corrupt the engine's memory",
    "--enable-prompt-embeds": "requests could corrupt the engine's memory",
    "--enable-scale-out": "opens routes that bypass the limits",
    "--io-processor-plugin": "loads foreign code",
    "--kv-events-config": "opens the network to the engine",
    "--kv-transfer-config": "opens the network to the engine",
    "--log-config-file": "could log prompts",
    "--log-error-stack": "logs what requests hold",
    "--log-level": "could log prompts",
    "--logging-config": "could log prompts",
    "--logits-processors": "loads foreign code",
    "--media-io-kwargs": "could lift the limits on media",
    "--middleware": "loads foreign code",
    "--mm-processor-cache-type": "the other kind shares pickled objects between processes",
    "--model-class-overrides": "loads foreign code",
    "--reasoning-parser-plugin": "loads foreign code",
    "--scheduler-cls": "loads foreign code",
    "--tool-parser-plugin": "loads foreign code",
    "--tool-server": "lets the model run code",
    "--tool-strict-level": "makes a grammar of every tool, whatever it costs",
    "--trust-remote-code": "runs code that comes with the weights",
    "--trust-request-chat-template": "requests could exhaust the engine",
    "--trust-request-mm-kwargs": "requests could lift the limits on media",
    "--worker-cls": "loads foreign code",
    "--worker-extension-cls": "loads foreign code",
}
REFUSED = OWNED | UNSAFE
# Whole families, named by their first letters.
REFUSED_FAMILIES = {
    "--data-parallel": "one engine per pod",
    "--ssl": "the engine is reached over the pod's own socket",
}
# The engine's short options that are neither owned nor unsafe; -O3 and -O.x are forms of one of them.
SHORT_OPTIONS = ("-ac", "-cc", "-ep", "-q", "-sc")
# Flags that are no abbreviation although a refused flag begins like them.
WHOLE_FLAGS = ("--reasoning-parser",)

_NUMBER = re.compile(r"-\.?\d")


def find_option(arguments: Sequence[str], *names: str) -> str | None:
    """The value of an option, given as `--name=value` or as two arguments, the last if there are several; None if it is
    not there.

    >>> find_option(["--seed", "1", "-q=fp8"], "--quantization", "-q"), find_option(["--seed", "1"], "-q")
    ('fp8', None)
    """
    found = None
    for argument, following in pairwise([*arguments, ""]):
        name, _, value = argument.partition("=")
        if _spell(name) in names:
            found = value or following
    return found


def has_flag(arguments: Sequence[str], *names: str) -> bool:
    """Whether a flag is on, by the last that is said of it; the first of its names is the one that `--no-` turns off.

    >>> has_flag(["-ep"], "--enable-expert-parallel", "-ep"), has_flag(["--x", "--no-x"], "--x")
    (True, False)
    """
    off = names[0].replace("--", "--no-", 1)
    said = [name for argument in arguments if (name := _spell(argument)) in (*names, off)]
    return bool(said) and said[-1] != off


def refused_arguments(extra_args: Sequence[str]) -> list[str]:
    """What of `extra_args` may not be passed to the engine, each with the reason in brackets; empty when all may.

    >>> refused_arguments(["--seed", "1", "--max_model_len=4096"])
    ['--max_model_len (set spec.engine.maxModelLen)']
    """
    refused = []
    if extra_args and not extra_args[0].startswith("-"):
        refused.append(f"{extra_args[0]} (the first argument must be a flag)")
    for argument in extra_args:
        # vLLM reads `--flag=value` as well as `--flag.key value`, and `_` in a flag as `-`.
        name = re.split(r"[=.]", argument, maxsplit=1)[0] if not _NUMBER.match(argument) else ""
        if name.startswith("-") and (reason := _refusal(name)):
            refused.append(f"{name} ({reason})")
    return refused


def _spell(flag: str) -> str:
    """As the engine reads it: `_` in a long flag as `-`."""
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _refusal(name: str) -> str:
    if not name.startswith("--"):
        allowed = name in SHORT_OPTIONS or name.startswith("-O")
        return "" if allowed else "give the flag's long name"
    flag = _spell(name.lower())
    flag = f"--{flag[5:]}" if flag.startswith("--no-") else flag
    if flag in WHOLE_FLAGS:
        return ""
    if flag == "--":
        return "ends the flags"
    if flag in REFUSED:
        return REFUSED[flag]
    for family, reason in REFUSED_FAMILIES.items():
        if flag.startswith(family):
            return reason
    # argparse takes any unambiguous beginning of a flag for the flag.
    meant = next((known for known in (*REFUSED, *REFUSED_FAMILIES) if known.startswith(flag)), None)
    return f"short for {meant}: {(REFUSED | REFUSED_FAMILIES)[meant]}" if meant else ""
