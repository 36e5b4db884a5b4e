"""What a CR's children should be: one module per kind, each a pure function that builds one manifest."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import config_map, deployment, disruption_budget, pod_template, service, service_account
from qwenvl_operator.desired.child import stamp
from qwenvl_operator.desired.config_map import Recorded
from qwenvl_operator.desired.deployment import emptied
from qwenvl_operator.objects import Manifest
from qwenvl_operator.rollout import Strategy

__all__ = ["Recorded", "desired_children", "emptied", "render"]


def render(cr: CustomResource, runtime_image: str) -> Recorded:
    """What a pod of this revision is made of, by the rules of this version of the operator."""
    return Recorded.new(config_map.runtime_config(cr), pod_template.build(cr, runtime_image))


def desired_children(cr: CustomResource, recorded: Recorded, strategy: Strategy) -> list[Manifest]:
    """Every child, in the order in which they are applied.

    `recorded` is what the revision was made of when it was first seen, so that an upgrade of the operator alone
    changes no pod.
    """
    children = [
        service_account.build(cr),
        config_map.build(cr, recorded),
        service.build(cr),
        deployment.build(cr, recorded.template, strategy),
        disruption_budget.build(cr),
    ]
    return [stamp(child) for child in children]
