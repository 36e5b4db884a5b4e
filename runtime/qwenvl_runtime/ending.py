"""How the process ends: its exit code, and its last words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    STOPPED = 0
    BAD_CONFIG = 2
    ENGINE_DIED = 10
    LOAD_TIMEOUT = 11
    WARMUP_FAILED = 12
    SNAPSHOT_INVALID = 13
    QUANTIZATION_MISMATCH = 14
    ENGINE_FROZEN = 15


@dataclass(frozen=True)
class Ending:
    code: ExitCode
    message: str
