"""The Deployment: how many runtime pods of which template, and how one template follows another."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import Deadlines
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import child_name, selector
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_operator.rollout import Strategy


def emptied(live: Manifest) -> Manifest:
    """The Deployment as it is, less its pods: for a CR that wants none, and of which nothing else can be built."""
    ours = ("name", "namespace", "labels", "annotations", "ownerReferences")
    metadata = {name: value for name, value in live["metadata"].items() if name in ours}
    identity = {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": metadata}
    return {**identity, "spec": {**live["spec"], "replicas": 0}}


def build(cr: CustomResource, template: Manifest, strategy: Strategy) -> Manifest:
    return child(
        cr,
        Kind.DEPLOYMENT,
        child_name(cr.key),
        spec={
            "replicas": cr.replicas,
            # `kubectl rollout pause`: what the resource asks for would wait for ever. spec.suspend is there to stop.
            "paused": None,
            "selector": {"matchLabels": selector(cr.key)},
            "strategy": strategy.manifest(),
            "progressDeadlineSeconds": Deadlines.of(cr.spec).progress,
            "revisionHistoryLimit": 2,
            "template": template,
        },
    )
