"""A rollout takes the way that the free GPUs allow."""

from __future__ import annotations

from typing import Any

import pytest
from samples import custom_resource, live_children, observed, pod

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.objects import Manifest
from qwenvl_operator.rollout import Strategy, choose_strategy, needs_room
from qwenvl_operator.room import Room, describe_offers, find_room, free_room

OLD = custom_resource()
NEW = custom_resource(engine={"maxModelLen": 32768})
FULL = Room(free=0, vacated=1)


def deployment(cr: CustomResource, strategy: Strategy = Strategy.RECREATE) -> Manifest:
    live = observed({}, children=live_children(cr)).deployment()
    assert live is not None
    return {**live, "spec": {**live["spec"], "strategy": strategy.manifest()}}


def node(**changes: Any) -> Manifest:
    return {
        "metadata": {"name": "node-a", "labels": {"gpu": "h100"}},
        "spec": changes,
        "status": {"allocatable": {"nvidia.com/gpu": "2", "memory": "100Gi", "pods": "110"}},
    }


def holder(gpus: int, phase: str = "Running") -> Manifest:
    return {
        "spec": {
            "nodeName": "node-a",
            "containers": [{"resources": {"requests": {"nvidia.com/gpu": str(gpus), "memory": "10Gi"}}}],
        },
        "status": {"phase": phase},
    }


def test_auto_surges_where_a_gpu_is_free() -> None:
    assert choose_strategy(NEW, deployment(OLD), [], room=Room(free=1, vacated=2)) is Strategy.SURGE


@pytest.mark.parametrize("room", [FULL, None])
def test_auto_gives_up_the_only_gpu_first(room: Room | None) -> None:
    assert choose_strategy(NEW, deployment(OLD), [], room=room) is Strategy.RECREATE


def test_auto_gives_up_nothing_for_a_pod_that_would_fit_nowhere_even_then() -> None:
    assert choose_strategy(NEW, deployment(OLD), [], room=Room(free=0, vacated=0)) is Strategy.SURGE


def test_auto_replaces_several_replicas_one_by_one() -> None:
    several = custom_resource(replicas=3, engine={"maxModelLen": 32768})
    assert choose_strategy(several, deployment(OLD), [], room=FULL) is Strategy.IN_PLACE


def test_auto_keeps_its_choice_at_rest() -> None:
    assert choose_strategy(OLD, deployment(OLD, Strategy.SURGE), [], room=None) is Strategy.SURGE


@pytest.mark.parametrize(("replicas", "strategy"), [(1, Strategy.RECREATE), (3, Strategy.IN_PLACE)])
def test_auto_does_not_end_several_at_once_because_there_was_one_before(replicas: int, strategy: Strategy) -> None:
    cr = custom_resource(replicas=replicas)
    assert choose_strategy(cr, deployment(cr, Strategy.RECREATE), [], room=None) is strategy


def test_auto_takes_a_surge_back_that_does_not_fit() -> None:
    pods = [pod(OLD, "old", ready=True), pod(NEW, "new", scheduled=False)]
    assert choose_strategy(NEW, deployment(NEW, Strategy.SURGE), pods, room=None) is Strategy.RECREATE


@pytest.mark.parametrize(
    ("unscheduled", "strategy"),
    [
        ('persistentvolumeclaim "weigths" not found', Strategy.SURGE),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", Strategy.SURGE),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.", Strategy.SURGE),
        ("0/1 nodes are available: 1 Insufficient memory.", Strategy.RECREATE),
        ("0/1 nodes are available: 1 Too many pods.", Strategy.RECREATE),
        (
            "0/1 nodes are available: 1 node has pod using PersistentVolumeClaim with the same name and "
            "ReadWriteOncePod access mode.",
            Strategy.RECREATE,
        ),
    ],
)
def test_auto_takes_a_surge_back_for_what_the_old_pod_holds_alone(unscheduled: str, strategy: Strategy) -> None:
    pods = [pod(OLD, "old", ready=True), pod(NEW, "new", scheduled=False, unscheduled=unscheduled)]
    assert choose_strategy(NEW, deployment(NEW, Strategy.SURGE), pods, room=None) is strategy


@pytest.mark.parametrize(
    ("room", "strategy"),
    [(Room(free=0, vacated=0), Strategy.SURGE), (FULL, Strategy.RECREATE), (Room(1, 2), Strategy.RECREATE)],
)
def test_auto_takes_no_surge_back_for_a_pod_that_would_fit_nowhere_even_then(room: Room, strategy: Strategy) -> None:
    pods = [pod(OLD, "old", ready=True), pod(NEW, "new", scheduled=False)]
    live = deployment(NEW, Strategy.SURGE)
    assert needs_room(NEW, live, pods)
    assert choose_strategy(NEW, live, pods, room=room) is strategy


def test_auto_takes_back_a_surge_that_a_restart_by_hand_began() -> None:
    pods = [pod(NEW, "old", ready=True, template="before"), pod(NEW, "new", scheduled=False, template="after")]
    assert choose_strategy(NEW, deployment(NEW, Strategy.SURGE), pods, room=None) is Strategy.RECREATE


def test_auto_waits_for_room_that_no_pod_of_its_own_holds() -> None:
    pods = [pod(NEW, "one", ready=True), pod(NEW, "two", scheduled=False)]
    assert choose_strategy(NEW, deployment(NEW, Strategy.SURGE), pods, room=None) is Strategy.SURGE


def test_auto_leaves_a_new_pod_that_waits_for_its_first_gpu_alone() -> None:
    pods = [pod(NEW, "new", scheduled=False)]
    assert choose_strategy(NEW, deployment(NEW, Strategy.SURGE), pods, room=None) is Strategy.SURGE


@pytest.mark.parametrize(("asked", "strategy"), [("Surge", Strategy.SURGE), ("Recreate", Strategy.RECREATE)])
def test_what_is_asked_for_is_done(asked: str, strategy: Strategy) -> None:
    cr = custom_resource(rollout={"strategy": asked}, engine={"maxModelLen": 32768})
    assert choose_strategy(cr, deployment(OLD), [], room=FULL) is strategy


@pytest.mark.parametrize("strategy", Strategy)
def test_a_strategy_is_read_back_from_what_it_wrote(strategy: Strategy) -> None:
    assert Strategy.of(deployment(OLD, strategy)) is strategy


def test_room_counts_what_other_pods_hold() -> None:
    assert free_room(OLD, [node()], []) == 2
    assert free_room(OLD, [node()], [holder(1)]) == 1
    assert free_room(OLD, [node()], [holder(2)]) == 0
    assert free_room(OLD, [node()], [holder(2, "Succeeded")]) == 2


def test_room_is_counted_without_the_own_pods_too() -> None:
    own = {**pod(OLD, "own"), "spec": holder(1)["spec"]}
    other = {**holder(1), "metadata": {**own["metadata"], "namespace": "lab"}}
    assert find_room(OLD, [node()], [own, other]) == Room(free=0, vacated=1)
    elsewhere = custom_resource(hardware={"nodeSelector": {"gpu": "b200"}})
    assert find_room(elsewhere, [node()], [own]) == Room(free=0, vacated=0)


def test_room_counts_memory_too() -> None:
    cr = custom_resource(runtime={"resources": {"limits": {"memory": "60Gi"}}})
    assert free_room(cr, [node()], []) == 1


def test_room_needs_the_node_selector_and_no_cordon() -> None:
    cr = custom_resource(hardware={"nodeSelector": {"gpu": "a10"}})
    assert free_room(cr, [node()], []) == 0
    assert free_room(OLD, [node(unschedulable=True)], []) == 0


def test_room_needs_every_taint_tolerated() -> None:
    tainted = node(taints=[{"key": "gpu", "value": "yes", "effect": "NoSchedule"}])
    tolerant = custom_resource(hardware={"tolerations": [{"key": "gpu", "operator": "Exists"}]})
    equal = custom_resource(hardware={"tolerations": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]})
    other = custom_resource(hardware={"tolerations": [{"key": "gpu", "value": "no"}]})
    assert [free_room(cr, [tainted], []) for cr in (OLD, tolerant, equal, other)] == [0, 2, 2, 0]


def test_what_there_is_of_a_gpu_is_told_by_node() -> None:
    assert describe_offers(OLD, [node()]) == "In all, free or not, there are 2 on node node-a."
    large = {"metadata": {"name": "node-b"}, "spec": {}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    assert "there are 8 on node node-b, 2 on each of 2 nodes." in describe_offers(OLD, [node(), large, node()])


def test_what_keeps_pods_from_the_gpus_that_there_are_is_told() -> None:
    elsewhere = custom_resource(hardware={"nodeSelector": {"gpu": "b200"}})
    unlabelled = custom_resource(hardware={"nodeSelector": {"rack": "a"}})
    tainted = node(taints=[{"key": "team", "value": "a", "effect": "NoSchedule"}])
    cases = (
        (OLD, [], ""),
        (OLD, [node(unschedulable=True)], ": node-a is cordoned"),
        (OLD, [tainted], ": node-a has the taint team=a:NoSchedule, which spec.hardware.tolerations has not"),
        (elsewhere, [node()], ": node-a has gpu=h100 and spec.hardware.nodeSelector wants b200"),
        (unlabelled, [node()], ": node-a has no label rack and spec.hardware.nodeSelector wants a"),
    )
    for cr, nodes, why in cases:
        assert describe_offers(cr, nodes) == f"No node that it may go to offers nvidia.com/gpu{why}."
    many = describe_offers(OLD, [node(unschedulable=True)] * 5)
    assert many.endswith("node-a is cordoned, node-a is cordoned, node-a is cordoned, and 2 more.")
