"""The command line: read the configuration, run the server, say why it ended."""

from __future__ import annotations

import argparse
import ctypes
import logging
import os
import resource
import sys
from pathlib import Path
from typing import NoReturn

import uvloop
from pydantic import ValidationError

from qwenvl_runtime.arguments import refused_arguments
from qwenvl_runtime.config import CACHE_DIRECTORY, CONFIG_DIRECTORY, CONFIG_FILE, MANAGEMENT_PORT, PORT, RuntimeConfig
from qwenvl_runtime.ending import Ending, ExitCode
from qwenvl_runtime.limits import Limits
from qwenvl_runtime.logs import set_up_logging
from qwenvl_runtime.server import Server

_LAST_WORDS_LIMIT = 2048
_SPARE_FILES = 512
# glibc's mallopt: from which size on memory comes from the kernel by itself, and how much of what is free is kept.
_MALLOPT = {"M_MMAP_THRESHOLD": (-3, 32 << 20), "M_TRIM_THRESHOLD": (-1, 64 << 20)}

logger = logging.getLogger("qwenvl_runtime")


def run() -> None:
    """Ends the process with one of ExitCode."""
    parser = argparse.ArgumentParser(prog="qwenvl_runtime", description="Process 1 of the runtime pod.")
    parser.add_argument(
        "--config", type=Path, default=Path(CONFIG_DIRECTORY, CONFIG_FILE), help="RuntimeConfig as JSON"
    )
    parser.add_argument("--port", type=int, default=PORT, help="where clients ask; 0 takes a free one and logs it")
    parser.add_argument(
        "--management-port", type=int, default=MANAGEMENT_PORT, help="where probes, report and metrics are; 0 as above"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(CACHE_DIRECTORY), help="folder for the engine's compiled code, if writable"
    )
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"))
    arguments = parser.parse_args()
    set_up_logging()
    try:
        config = load_config(arguments.config)
    except (OSError, ValueError) as error:
        ending = Ending(ExitCode.BAD_CONFIG, f"{arguments.config}: {describe(error)}")
        sys.exit(end(ending, arguments.termination_log))
    ports = arguments.port, arguments.management_port
    uvloop.run(serve(config, ports, arguments.cache, arguments.termination_log))


def load_config(path: Path) -> RuntimeConfig:
    """Raises OSError or ValueError (of which pydantic's ValidationError is one)."""
    config = RuntimeConfig.load(path)
    if refused := refused_arguments(config.engine.extra_args):
        raise ValueError("engine.extra_args: " + ", ".join(refused))
    return config


def describe(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    return str(error)


async def serve(config: RuntimeConfig, ports: tuple[int, int], cache: Path, termination_log: Path) -> NoReturn:
    limits = Limits.of(config)
    raise_file_limit(2 * limits.connections + _SPARE_FILES)
    keep_memory()
    code = end(await Server(config, ports, cache, limits).run(), termination_log)
    # Loop and interpreter would wait for every thread first, and one may hang in a read of the snapshot for ever.
    os._exit(code)


def raise_file_limit(wanted: int) -> None:
    """Some container runtimes start processes with room for 1024 files only, and let them ask for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))


def keep_memory() -> None:
    """Keep what the last body took for the next one: half of a picture's time goes into getting its pages anew."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        for option, size in _MALLOPT.values():
            mallopt(option, size)


def end(ending: Ending, termination_log: Path) -> int:
    """The last log line, and for a failure the line that `kubectl describe pod` shows."""
    # Names of files, and text that a snapshot holds, need not be Unicode.
    message = ending.message.encode(errors="backslashreplace").decode()
    if ending.code is ExitCode.STOPPED:
        logger.info("%s", message)
    else:
        last_words = f"{ending.code.name}: {message}"[:_LAST_WORDS_LIMIT]
        logger.error("%s", last_words)
        if termination_log.exists():
            termination_log.write_text(last_words + "\n")
    return ending.code
