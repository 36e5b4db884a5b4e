"""The Deployment: how many runtime pods of which template, and how one template follows another."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.deadlines import Deadlines
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import child_name, selector
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_operator.rollout import Strategy


def build(cr: CustomResource, template: Manifest, strategy: Strategy) -> Manifest:
    return child(
        cr,
        Kind.DEPLOYMENT,
        child_name(cr.key),
        spec={
            "replicas": cr.replicas,
            "selector": {"matchLabels": selector(cr.key)},
            "strategy": strategy.manifest(),
            "progressDeadlineSeconds": Deadlines.of(cr.spec).progress,
            "revisionHistoryLimit": 2,
            "template": template,
        },
    )
