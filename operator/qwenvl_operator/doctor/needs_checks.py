"""Whether what a resource names is there, and is what it can use: pure."""

from __future__ import annotations

from collections.abc import Iterator

from qwenvl_operator.doctor.case import Case
from qwenvl_operator.doctor.cluster_checks import check_pod_security, check_runtime_class
from qwenvl_operator.doctor.findings import Finding, fail, named, ok, skipped, warn
from qwenvl_operator.doctor.readings import Unread
from qwenvl_operator.fitness import check_spec
from qwenvl_operator.footprint import Fit
from qwenvl_operator.objects import Manifest
from qwenvl_operator.reasons import Reason

SHARED = {"ReadWriteMany", "ReadOnlyMany"}
READ_ONLY = {"ReadOnlyMany"}


def check_needs(case: Case) -> Iterator[Finding]:
    """The fit, the volumes, the RuntimeClass and the namespace."""
    yield from check_fit(case)
    yield from check_claims(case)
    if name := case.cr.spec.hardware.runtime_class_name:
        yield check_runtime_class(name, case.cluster.runtime_classes)
    yield check_pod_security(case.own.cr, case.cluster.namespaces)


def check_fit(case: Case) -> Iterator[Finding]:
    """Whether the model fits the GPUs, as far as these are named."""
    fit = check_spec(case.cr.spec)
    if not isinstance(fit, Fit):
        yield skipped("fit", Unread(fit))
    elif not fit.fits:
        yield fail("fit", named(Reason.DOES_NOT_FIT, fit.message), "qwenvl fit --table", Reason.DOES_NOT_FIT)
    else:
        yield ok("fit", fit.message)
        for warning in fit.warnings:
            yield warn("fit", warning, "see docs/fit.md", Reason.DOES_NOT_FIT)


def check_claims(case: Case) -> Iterator[Finding]:
    """The claims of the weights and of the cache."""
    source, cache = (
        case.cr.spec.model.source.persistent_volume_claim,
        case.cr.spec.runtime.cache.persistent_volume_claim,
    )
    named_claims = [(source.claim_name, False)] if source else []
    named_claims += [(cache.claim_name, True)] if cache else []
    for name, written in named_claims:
        about = f"claim {name}"
        if isinstance(case.own.claims, Unread):
            yield skipped(about, case.own.claims)
            continue
        claim = next((one for one in case.own.claims if one["metadata"]["name"] == name), None)
        yield _check_claim(about, claim, case, written=written)


def _check_claim(about: str, claim: Manifest | None, case: Case, *, written: bool) -> Finding:
    see = Reason.VOLUME_UNAVAILABLE
    if claim is None:
        said = f"does not exist in the namespace {case.cr.key.namespace}"
        return fail(about, said, "create it, or correct its name in the spec", see)
    if claim["metadata"].get("deletionTimestamp"):
        return fail(about, "is being deleted, and stays only as long as a pod uses it", "name another", see)
    phase = claim.get("status", {}).get("phase", "Pending")
    if phase == "Pending":
        storage_class = claim["spec"].get("storageClassName") or "none"
        said = f"is Pending: no volume is bound to it yet (StorageClass {storage_class})"
        return warn(about, said, "kubectl describe pvc says what it waits for", see)
    if phase != "Bound":
        return fail(about, f"is {phase}: its volume is gone", "restore the volume, or make the claim anew", see)
    return _check_modes(about, claim["spec"].get("accessModes", []), case.cr.replicas, written=written)


def _check_modes(about: str, modes: list[str], replicas: int, *, written: bool) -> Finding:
    said, see, advice = f"is Bound, {', '.join(modes)}", Reason.VOLUME_UNAVAILABLE, "take ReadOnlyMany or ReadWriteMany"
    if written and set(modes) <= READ_ONLY:
        return fail(about, f"{said}: the cache has to be written", "name one that is writable", see)
    if replicas > 1 and modes == ["ReadWriteOncePod"]:
        return fail(about, f"{said}: one pod at a time, not {replicas}", advice, see)
    if replicas > 1 and SHARED.isdisjoint(modes):
        return warn(about, f"{said}: all {replicas} pods have to be on one node", advice, see)
    return ok(about, said)
