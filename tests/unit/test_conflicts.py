"""Repairs are free until they cannot be chance; then they are slow and said, until the other one stops."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from samples import KEY, custom_resource, live_children

from qwenvl_operator.conflicts import PAUSE, QUIET, TOLERATED, WINDOW, Conflicts, explain
from qwenvl_operator.naming import APPLIED_HASH, FIELD_MANAGER
from qwenvl_operator.objects import Kind, Manifest, Ref

CHILDREN = live_children(custom_resource())
DEPLOYMENT = CHILDREN[Ref(Kind.DEPLOYMENT, *KEY)]
SERVICE = CHILDREN[Ref(Kind.SERVICE, *KEY)]
IMAGE = {"f:spec": {"f:template": {"f:spec": {"f:containers": {'k:{"name":"runtime"}': {".": {}, "f:image": {}}}}}}}


def fight(conflicts: Conflicts, manifest: Manifest = DEPLOYMENT, *, gap: float = 0.1, start: float = 0.0) -> float:
    """As many repairs as make a conflict; returns when the last one was."""
    for number in range(TOLERATED + 1):
        now = start + number * gap
        assert conflicts.may_repair(KEY, manifest, now)
        one_too_many = conflicts.is_one_too_many(KEY, manifest, now)
        assert one_too_many is (number == TOLERATED)
        assert conflicts.ongoing(KEY, now) is None
        conflicts.repaired(KEY, manifest, now, "said" if one_too_many else "")
    return now


def test_from_the_sixth_repair_on_it_is_said_and_slow() -> None:
    conflicts = Conflicts()
    last = fight(conflicts)
    assert conflicts.ongoing(KEY, last) == ("said", PAUSE)
    assert not conflicts.may_repair(KEY, DEPLOYMENT, last + PAUSE - 1)
    assert conflicts.may_repair(KEY, DEPLOYMENT, last + PAUSE)
    assert conflicts.may_repair(KEY, SERVICE, last)


def test_it_goes_on_as_long_as_the_other_one_does_and_then_ends() -> None:
    conflicts = Conflicts()
    last = fight(conflicts)
    for _ in range(20):
        last += PAUSE
        assert conflicts.is_one_too_many(KEY, DEPLOYMENT, last)
        conflicts.repaired(KEY, DEPLOYMENT, last, "said")
    conflict = conflicts.ongoing(KEY, last + PAUSE)
    assert conflict is not None
    assert conflict.again == QUIET - PAUSE
    assert conflicts.ongoing(KEY, last + QUIET) is None
    assert not conflicts.is_one_too_many(KEY, DEPLOYMENT, last + QUIET)


def test_a_slow_fight_is_one_without_coming_and_going() -> None:
    conflicts = Conflicts()
    gap = WINDOW / TOLERATED
    last = fight(conflicts, gap=gap)
    assert conflicts.ongoing(KEY, last + gap) is not None


def test_rare_repairs_are_chance() -> None:
    conflicts = Conflicts()
    for number in range(50):
        now = number * (WINDOW / TOLERATED + 1)
        assert not conflicts.is_one_too_many(KEY, DEPLOYMENT, now)
        conflicts.repaired(KEY, DEPLOYMENT, now)


def test_changes_of_what_is_wanted_are_no_repairs() -> None:
    conflicts = Conflicts()
    for number in range(50):
        manifest = copy.deepcopy(DEPLOYMENT)
        manifest["metadata"]["annotations"][APPLIED_HASH] = str(number % 2)
        assert not conflicts.is_one_too_many(KEY, manifest, number)
        conflicts.repaired(KEY, manifest, number)


def test_a_deleted_resource_is_forgotten() -> None:
    conflicts = Conflicts()
    last = fight(conflicts)
    conflicts.forget(KEY)
    assert conflicts.ongoing(KEY, last) is None


def drop_selector(live: Manifest) -> None:
    del live["spec"]["selector"]


def set_image(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "theirs"


@pytest.mark.parametrize(
    ("manifest", "change", "managers", "said"),
    [
        (
            DEPLOYMENT,
            set_image,
            [("theirs", IMAGE), (FIELD_MANAGER, {"f:spec": {}}), ("scaler", {"f:spec": {"f:replicas": {}}})],
            "theirs keeps changing spec.template.spec.containers[runtime].image of Deployment reports",
        ),
        (DEPLOYMENT, set_image, [(FIELD_MANAGER, IMAGE)], "a mutating webhook, or a client that"),
        (SERVICE, drop_selector, [], "keeps changing spec.selector of Service reports"),
    ],
)
def test_the_other_one_and_the_fields_are_named(
    manifest: Manifest, change: Callable[[Manifest], None], managers: list[tuple[str, Manifest]], said: str
) -> None:
    live = copy.deepcopy(manifest)
    change(live)
    live["metadata"]["managedFields"] = [{"manager": name, "fieldsV1": fields} for name, fields in managers]
    assert said in explain(manifest, live)
    assert "scaler" not in explain(manifest, live)
