"""What is lacking is named, from the API server's words or from what was asked."""

from __future__ import annotations

import pytest

from qwenvl_operator.causes import explain_refusal
from qwenvl_operator.errors import ApiError
from qwenvl_operator.permissions import Denials, Permission
from qwenvl_operator.reasons import Reason

PODS = Permission("watch", "", "pods", "ai")


def forbidden(message: str, status: int = 403) -> ApiError:
    return ApiError(status, "Forbidden", message, call="patch deployments ai/reports")


def refusal(of: str) -> str:
    return f'deployments.apps "reports" is forbidden: User "system:serviceaccount:q:operator" cannot {of}'


@pytest.mark.parametrize(
    ("message", "right"),
    [
        (
            refusal('patch resource "deployments" in API group "apps" in the namespace "ai"'),
            Permission("patch", "apps", "deployments", "ai"),
        ),
        (
            refusal('patch resource "pods/status" in API group "" in the namespace "ai": RBAC: role "x" not found'),
            Permission("patch", "", "pods/status", "ai"),
        ),
        (
            refusal('list resource "nodes" in API group "" at the cluster scope'),
            Permission("list", "", "nodes", ""),
        ),
    ],
)
def test_a_refusal_by_rbac_names_the_right(message: str, right: Permission) -> None:
    assert Permission.refused_by(forbidden(message)) == right
    reason, said = explain_refusal(forbidden(message))
    assert reason is Reason.PERMISSION_MISSING
    assert f"may not {right.verb} {right.resource}" in said
    assert (f"in namespace {right.namespace}" if right.namespace else "in all namespaces") in said


@pytest.mark.parametrize(
    "error",
    [
        forbidden('pods "x" is forbidden: exceeded quota: gpus'),
        forbidden(refusal('patch resource "deployments" in API group "apps" in the namespace "ai"'), status=422),
    ],
)
def test_another_refusal_is_said_as_it_is(error: ApiError) -> None:
    assert explain_refusal(error) == (Reason.APPLY_REFUSED, str(error))


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("/api/v1/namespaces/ai/pods", Permission("list", "", "pods", "ai")),
        ("/api/v1/pods", Permission("list", "", "pods", "")),
        ("/apis/qwenvl.io/v1alpha1/qwenvldeployments", Permission("list", "qwenvl.io", "qwenvldeployments", "")),
        ("/apis/apps/v1/namespaces/ai/deployments", Permission("list", "apps", "deployments", "ai")),
        ("/apis/apps/v1", None),
        ("/api/v1", None),
        ("/version", None),
        ("/api/v1/namespaces/ai/pods/reports-1", None),
    ],
)
def test_a_request_for_a_kind_names_the_right(path: str, right: Permission | None) -> None:
    assert Permission.to_read(path, watch=False) == right
    watch = Permission.to_read(path, watch=True)
    assert watch == (right and right._replace(verb="watch"))


def test_what_is_lacking_concerns_its_namespace_until_it_is_granted() -> None:
    denials = Denials()
    assert not denials.note(PODS, granted=True)
    assert denials.note(PODS, granted=False)
    assert not denials.note(PODS, granted=False)
    assert denials.about("ai") == PODS
    assert denials.about("lab") is None
    everywhere = PODS._replace(namespace="")
    denials.note(everywhere, granted=False)
    assert denials.about("lab") == everywhere
    assert denials.note(everywhere, granted=True)
    assert denials.note(PODS, granted=True)
    assert not denials
