"""What this process is and how far it has come: one object that the life cycle writes and the front reads."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import uuid4

from qwenvl_runtime.config import EngineReport, SnapshotReport, WarmupReport, WarmupShot


class Phase(StrEnum):
    VERIFYING = "verifying"
    LOADING = "loading"
    WARMING = "warming"
    SERVING = "serving"
    FROZEN = "frozen"
    """It served, and the engine makes no progress: no traffic until it does, or the end."""
    DRAINING = "draining"
    FAILED = "failed"


@dataclass
class Boot:
    revision: str
    boot_id: str = field(default_factory=lambda: uuid4().hex)
    pod: str = field(default_factory=socket.gethostname)
    started_at: float = field(default_factory=time.time)
    phase: Phase = Phase.VERIFYING
    warmed: bool = False
    """Stays true while draining: the report tells what was done, not what may be asked."""
    stages: dict[str, float] = field(default_factory=dict)
    shots: tuple[WarmupShot, ...] = ()
    engine: EngineReport | None = None
    read_snapshot: Callable[[], SnapshotReport | None] = lambda: None
    """How far its verification is, at any moment."""
    silence: float = 0.0
    """Seconds since the engine was last seen to make progress."""
    reason: str = "the snapshot is being checked"

    def report(self) -> WarmupReport:
        return WarmupReport(
            boot_id=self.boot_id,
            pod=self.pod,
            revision=self.revision,
            started_at=self.started_at,
            complete=self.warmed,
            shots=self.shots,
            engine=self.engine,
            snapshot=self.read_snapshot(),
            stages=dict(self.stages),
            reason=self.reason,
        )
