"""The ServiceAccount of the runtime pods: an identity without any right, and without a token in the pod."""

from __future__ import annotations

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired.child import child
from qwenvl_operator.naming import child_name
from qwenvl_operator.objects import Kind, Manifest


def build(cr: CustomResource) -> Manifest:
    return child(cr, Kind.SERVICE_ACCOUNT, child_name(cr.key), automountServiceAccountToken=False)
