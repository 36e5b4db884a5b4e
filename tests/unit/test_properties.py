"""What holds of plan and status whatever is there: no table has all of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import hypothesis.strategies as st
from hypothesis import given
from samples import KEY, NOW, cr_manifest, custom_resource, live_children, observed, pod, report

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import desired_children, render
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.fitness import derive_fit
from qwenvl_operator.naming import labels
from qwenvl_operator.objects import Kind, Manifest, Ref, owner_uid, ref_of
from qwenvl_operator.observed import Observed, Store
from qwenvl_operator.obstacles import Obstacle
from qwenvl_operator.plan import Plan, make_plan
from qwenvl_operator.pods import parse_time
from qwenvl_operator.reasons import Reason
from qwenvl_operator.rollout import Strategy, is_rolled_out
from qwenvl_operator.status import (
    Status,
    derive_problem_status,
    derive_status,
    find_condition,
    is_same,
    known_fit,
)
from qwenvl_runtime.config import EngineReport, SnapshotReport, WarmupReport

DIGEST = f"sha256:{'0' * 64}"
SOURCE = {"persistentVolumeClaim": {"claimName": "weights"}}
SPECS = st.fixed_dictionaries(
    {"model": st.sampled_from([{"source": SOURCE}, {"source": SOURCE, "manifestDigest": DIGEST}])},
    optional={
        "hardware": st.just({"accelerator": {"model": "H200"}}),
        "replicas": st.integers(0, 3),
        "suspend": st.booleans(),
        "engine": st.sampled_from([{"maxNumSeqs": 8}, {"maxModelLen": 8192}]),
        "warmup": st.sampled_from([{"gatePolicy": "Strict"}, {"gatePolicy": "Fallback"}]),
    },
)
DEPLOYMENTS = st.fixed_dictionaries(
    {},
    optional={
        "observedGeneration": st.integers(0, 1),
        "replicas": st.integers(0, 3),
        "updatedReplicas": st.integers(0, 3),
        "conditions": st.sampled_from(
            [
                [{"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}],
                [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}],
            ]
        ),
    },
)
SERVING = {"ready": True, "gate": True}
PODS = st.lists(
    st.just(SERVING)
    | st.fixed_dictionaries(
        {},
        optional={
            "revision": st.just("old"),
            "scheduled": st.booleans(),
            "running": st.booleans(),
            "started": st.booleans(),
            "ready": st.booleans(),
            "waiting": st.sampled_from(["ImagePullBackOff", "CrashLoopBackOff", "CreateContainerConfigError"]),
            "exit_code": st.integers(1, 13),
            "restarts": st.integers(0, 5),
        },
    ),
    max_size=4,
)
SNAPSHOTS = st.sampled_from(
    [
        SnapshotReport(digest=digest, bytes_total=4_000_000_000, bytes_done=done, verified_at=verified_at)
        for digest, done, verified_at in (
            (DIGEST, 4_000_000_000, NOW - 10),
            (DIGEST, 0, NOW - 3600),
            (DIGEST, 1_000_000_000, None),
            (f"sha256:{'1' * 64}", 4_000_000_000, NOW - 10),
        )
    ]
)
ENGINES = st.sampled_from(
    [
        EngineReport(kv_cache_tokens=tokens, attention_backend=backend, cuda_graphs=graphs, compiled=compiled)
        for tokens in (None, 1_000, 1_000_000)
        for backend in ("", "FLASH_ATTN")
        for graphs, compiled in ((True, True), (True, False), (False, False))
    ]
)
READ = st.none() | st.fixed_dictionaries({"engine": st.none() | ENGINES, "snapshot": st.none() | SNAPSHOTS})
OBSTACLES = st.sampled_from([Obstacle(Reason.VOLUME_UNAVAILABLE, "because"), Obstacle(Reason.CONTAINER_REFUSED, "no")])
SAID = st.none() | st.just("unreadable") | SNAPSHOTS | OBSTACLES
"""What more is known of one pod."""
PROBLEMS = st.sampled_from(
    [Verdict(reason, "because", stalled=stalled) for reason in Reason for stalled in (True, False)]
)
EDITS: tuple[Callable[[Manifest], object], ...] = (
    lambda child: child["metadata"].update(annotations={}),
    lambda child: child["metadata"]["labels"].pop("app.kubernetes.io/name"),
    lambda child: child["metadata"]["labels"].update(team="a"),
    lambda child: child.get("spec", {}).update(replicas=7),
)


@st.composite
def children(draw: st.DrawFn, cr: CustomResource) -> dict[Ref, Manifest]:
    """Children of this spec and of one before it, some missing, some edited by others."""
    found = copy.deepcopy({**live_children(custom_resource(**draw(SPECS))), **live_children(cr, **draw(DEPLOYMENTS))})
    for ref in draw(st.sets(st.sampled_from(sorted(found, key=str)))):
        del found[ref]
    for child in found.values():
        draw(st.sampled_from((lambda _: None, *EDITS)))(child)
    return found


def plan_of(cr: CustomResource, seen: Observed) -> Plan:
    return make_plan(desired_children(cr, render(cr, "registry.local/runtime:1"), Strategy.RECREATE), seen, cr.revision)


def carried_out(plan: Plan, before: dict[Ref, Manifest]) -> dict[Ref, Manifest]:
    """The children after the plan, as the API server would hold them."""
    after = {ref: child for ref, child in before.items() if child not in plan.prune}
    for manifest in plan.apply:
        known = after.get(ref_of(manifest), {"metadata": {"generation": 0}})
        metadata = {"uid": "u", "resourceVersion": "1", "generation": known["metadata"]["generation"] + 1}
        after[ref_of(manifest)] = {**known, **manifest, "metadata": {**manifest["metadata"], **metadata}}
    return after


@given(SPECS, st.data())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(spec: dict[str, Any], data: st.DataObject) -> None:
    cr, manifest = custom_resource(**spec), cr_manifest(**spec)
    before = data.draw(children(cr))
    after = carried_out(plan_of(cr, observed(manifest, children=before)), before)
    assert plan_of(cr, observed(manifest, children=after)) == Plan((), ())


@given(SPECS, st.data(), st.lists(st.sampled_from(["", "another-uid"]), min_size=12, max_size=12))
def test_what_belongs_to_somebody_else_is_never_pruned(
    spec: dict[str, Any], data: st.DataObject, owners: list[str]
) -> None:
    store = Store()
    store.put(cr_manifest(**spec))
    cr = custom_resource(**spec)
    for child, owner in zip(data.draw(children(cr)).values(), owners, strict=False):
        theirs = copy.deepcopy(child)
        theirs["metadata"]["labels"] |= labels(KEY)
        theirs["metadata"]["ownerReferences"] = [
            {**reference, "uid": owner} for reference in theirs["metadata"]["ownerReferences"] if owner
        ]
        store.put(theirs)
    stray = next(child for ref, child in live_children(cr).items() if ref.kind is Kind.SERVICE)
    store.put({**stray, "metadata": {**stray["metadata"], "name": "stray"}})
    seen = store.observe(KEY)
    assert seen is not None
    pruned = plan_of(cr, seen).prune
    assert [child["metadata"]["name"] for child in pruned] == ["stray"]
    assert all(owner_uid(child) == cr.uid for child in pruned)


class Situation(NamedTuple):
    """What is known in one pass, the newest report that was read in it included."""

    facts: Facts
    report: WarmupReport | None

    def status(self) -> Status:
        return derive_status(*self)

    def after(self, previous: Status, now: float) -> Situation:
        """The same situation, or another one, with that status said before and nothing read anew."""
        cr = {**self.facts.observed.cr, "status": previous}
        seen = replace(self.facts.observed, cr=cr)
        fit = derive_fit(self.facts.cr.spec, None, known_fit(previous, self.facts.cr.revision))
        return Situation(replace(self.facts, observed=seen, now=now, fit=fit), None)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    spec = draw(SPECS)
    cr = custom_resource(**spec)
    pods = [pod(cr, f"reports-{n}", **state) for n, state in enumerate(draw(PODS))]
    complete = {"updatedReplicas": cr.replicas, "replicas": cr.replicas}
    deployed = live_children(cr, **draw(st.just(complete) | DEPLOYMENTS))
    seen = observed(cr_manifest(**spec), *pods, children=draw(st.sampled_from([deployed, deployed, {}])))
    read = draw(READ)
    newest = report(cr, **read) if read is not None else None
    said = {item["metadata"]["name"]: draw(SAID) for item in pods}
    facts = Facts(
        cr=cr,
        observed=seen,
        now=draw(st.sampled_from([NOW, NOW + 600])),
        unreadable={name: "no answer." for name, what in said.items() if what == "unreadable"},
        progress={name: what for name, what in said.items() if isinstance(what, SnapshotReport)},
        obstacles={name: what for name, what in said.items() if isinstance(what, Obstacle)},
        offers="In all, free or not, there are 8 on node node-a.",
        fit=derive_fit(cr.spec, newest.engine if newest else None, None),
    )
    return Situation(facts, newest)


def summary(status: Status) -> list[str]:
    """Which of the three conditions of kstatus hold; of each condition there is one."""
    kinds = [item["type"] for item in status["conditions"]]
    assert len(set(kinds)) == len(kinds)
    return [kind for kind in ("Ready", "Reconciling", "Stalled") if find_condition(status, kind)["status"] == "True"]


@given(situations())
def test_a_status_says_one_thing_of_one_generation(situation: Situation) -> None:
    status, cr = situation.status(), situation.facts.cr
    said = summary(status)
    assert len(said) == 1 or (said == [] and cr.replicas == 0 and status["replicas"] == 0)
    assert {item["observedGeneration"] for item in status["conditions"]} == {cr.generation}
    assert status["observedGeneration"] == cr.generation


@given(situations(), PROBLEMS)
def test_a_problem_is_one_thing_and_takes_nothing_back_that_was_known(situation: Situation, problem: Verdict) -> None:
    known, now = situation.status(), situation.facts.now + 1
    seen = situation.after(known, now).facts.observed
    status = derive_problem_status(seen, KEY, problem, now)
    assert summary(status) == ["Stalled" if problem.stalled else "Reconciling"]
    assert {find_condition(status, kind)["reason"] for kind in ("Ready", "Reconciling", "Stalled")} == {problem.reason}
    assert status["observedGeneration"] == situation.facts.cr.generation
    for name in ("revision", "warmup", "fit", "snapshot", "replicas", "readyReplicas"):
        assert status.get(name) == known.get(name), name
    for kind in ("Available", "SnapshotVerified"):
        assert find_condition(status, kind) == find_condition(known, kind)
    told = replace(seen, cr={**seen.cr, "status": status})
    assert is_same(status, derive_problem_status(told, KEY, problem, now + 3600))


@given(situations())
def test_ready_means_that_every_wanted_pod_of_this_revision_gets_traffic(situation: Situation) -> None:
    status, facts = situation.status(), situation.facts
    if find_condition(status, "Ready")["status"] == "True":
        assert status["readyReplicas"] >= facts.cr.replicas > 0
        assert is_rolled_out(facts.observed, facts.cr.revision)
        assert find_condition(status, "Available")["status"] == "True"


@given(situations())
def test_a_status_that_was_said_is_not_said_again(situation: Situation) -> None:
    status = situation.status()
    # That a report cannot be read becomes worse with time.
    later = situation.facts.now + (1 if situation.facts.unreadable else 3600)
    assert is_same(status, situation.after(status, later).status())


@given(st.lists(st.tuples(situations(), st.none() | PROBLEMS), min_size=2, max_size=4))
def test_the_times_of_conditions_never_go_back(course: list[tuple[Situation, Verdict | None]]) -> None:
    before: Status = {}
    for hour, (situation, problem) in enumerate(course):
        now = NOW + 3600 * hour
        facts = situation.after(before, now).facts
        status = (
            derive_problem_status(facts.observed, KEY, problem, now)
            if problem
            else derive_status(facts, situation.report)
        )
        for item in status["conditions"]:
            known = find_condition(before, item["type"])
            if known:
                has_changed = item["status"] != known["status"]
                passed = parse_time(item["lastTransitionTime"]) - parse_time(known["lastTransitionTime"])
                assert passed > 0 if has_changed else passed == 0
        before = status
