"""The Service in front of the runtime pods: only ready ones, under one stable name."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import SERVING, child_name, selector
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_runtime.config import PORT


def build(cr: CustomResource) -> Manifest:
    return child(
        cr,
        Kind.SERVICE,
        child_name(cr.key),
        spec={
            "type": "ClusterIP",
            "selector": selector(cr.key),
            "ports": [{"name": SERVING, "port": PORT, "targetPort": SERVING, "protocol": "TCP"}],
        },
    )
