"""Kubernetes Events: what happened to a CR, for `kubectl describe` and `kubectl get events`; how old one is. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from qwenvl_operator.naming import FIELD_MANAGER
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_operator.pods import parse_time

MAX_NOTE_BYTES = 1024
MAX_INSTANCE_LENGTH = 128
MAX_NAME_LENGTH = 253


def build_event(cr: Manifest, event_type: str, reason: str, note: str, *, now: float, instance: str) -> Manifest:
    """An Event about a CR: `event_type` is Normal or Warning, `instance` the name of this process.

    The same transition at the same moment has the same name, so that a repeated call is refused, not doubled.
    """
    metadata = cr["metadata"]
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    digest = hashlib.sha256("\n".join((metadata["uid"], event_type, reason, note, stamp)).encode()).hexdigest()[:16]
    return {
        "apiVersion": Kind.EVENT.value.api_version,
        "kind": Kind.EVENT.value.kind,
        "metadata": {
            "name": f"{metadata['name'][: MAX_NAME_LENGTH - len(digest) - 1]}.{digest}",
            "namespace": metadata["namespace"],
        },
        "eventTime": stamp,
        "type": event_type,
        "reason": reason,
        "action": "Reconcile",
        "note": _shorten(note),
        "regarding": {
            "apiVersion": cr["apiVersion"],
            "kind": cr["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        },
        "reportingController": FIELD_MANAGER,
        "reportingInstance": instance[:MAX_INSTANCE_LENGTH],
    }


def last_seen(event: Manifest) -> float:
    """Unix time at which anybody's Event happened last: the API has had three fields for it, and recorders use all."""
    series: Manifest = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("deprecatedLastTimestamp"), event.get("eventTime"))
    made = parse_time(event["metadata"]["creationTimestamp"])
    return max((parse_time(time) for time in times if time), default=made)


def _shorten(note: str) -> str:
    """At most what the API server takes, which counts bytes."""
    encoded = note.encode()
    if len(encoded) <= MAX_NOTE_BYTES:
        return note
    return encoded[: MAX_NOTE_BYTES - 3].decode(errors="ignore") + "..."
