"""The PodDisruptionBudget: node drains take one runtime pod at a time."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import child_name, selector
from qwenvl_operator.objects import Kind, Manifest


def build(cr: CustomResource) -> Manifest:
    """`maxUnavailable` and not `minAvailable`: a single replica must not block the drain of its node for ever.

    Pods that are still loading serve nobody, so they may always be evicted.
    """
    return child(
        cr,
        Kind.DISRUPTION_BUDGET,
        child_name(cr.key),
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(cr.key)},
        },
    )
