"""Reads what the doctor goes by, with the rights of whoever calls it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from qwenvl_operator.api import crd
from qwenvl_operator.cluster import KubernetesCluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.doctor.installation import Installation, Right
from qwenvl_operator.doctor.readings import ClusterReadings, Found, Listed, OperatorReadings, ResourceReadings, Unread
from qwenvl_operator.errors import ApiError, InvalidSpec
from qwenvl_operator.naming import child_name, config_map_name
from qwenvl_operator.objects import CHILD_KINDS, Key, Kind, Manifest, Ref

Connect = Callable[[str], KubernetesCluster]
"""The cluster as seen from one namespace; from all of them if it is empty."""
T = TypeVar("T")


async def read_cluster(connect: Connect, *, namespace: str, operator_namespace: str, now: float) -> ClusterReadings:
    """`namespace` and `operator_namespace` narrow where resources and operators are looked for; empty: everywhere.

    Raises ApiError if the API server does not answer at all.
    """
    everywhere = connect("")
    version = await everywhere.version()
    resources = await _attempt(connect(namespace).list(Kind.CR, managed=False))
    definition = await _attempt(everywhere.get(Ref(Kind.DEFINITION, "", crd.NAME)))
    return ClusterReadings(
        now=now,
        version=version,
        # Whoever may not read CRDs still sees that there is none of this kind.
        definition=None if isinstance(resources, Unread) and resources.unknown else definition,
        operators=await _read_operators(connect, operator_namespace),
        nodes=await _attempt(everywhere.list(Kind.NODE, managed=False)),
        pods=await _attempt(everywhere.list(Kind.POD, managed=False)),
        runtime_classes=await _attempt(everywhere.list(Kind.RUNTIME_CLASS, managed=False)),
        namespaces=await _read_namespaces(everywhere, namespace),
        resources=resources,
    )


async def read_resource(connect: Connect, key: Key) -> ResourceReadings | Unread | None:
    """None if there is no such resource."""
    here = connect(key.namespace)
    cr = await _attempt(here.get(Ref(Kind.CR, *key)))
    if cr is None or isinstance(cr, Unread):
        return cr
    return ResourceReadings(
        cr=cr,
        children=await _read_children(here, key, cr),
        pods=await _attempt(here.list(Kind.POD)),
        claims=await _attempt(here.list(Kind.CLAIM, managed=False)),
        quotas=await _attempt(here.list(Kind.QUOTA, managed=False)),
        events=await _attempt(here.list(Kind.EVENT, managed=False)),
    )


async def _attempt(call: Awaitable[T]) -> T | Unread:
    try:
        return await call
    except ApiError as error:
        why = f"needs: {error.call}" if error.status == 403 else str(error)
        return Unread(why, unknown=error.status == 404)


async def _read_children(here: KubernetesCluster, key: Key, cr: Manifest) -> Listed:
    names = dict.fromkeys(CHILD_KINDS, child_name(key))
    try:
        names[Kind.CONFIG_MAP] = config_map_name(key, CustomResource.parse(cr).revision)
    except InvalidSpec:
        # What is not understood has no revision, and so no ConfigMap.
        del names[Kind.CONFIG_MAP]
    found = [await _attempt(here.get(Ref(kind, key.namespace, name))) for kind, name in names.items()]
    unread = next((one for one in found if isinstance(one, Unread)), None)
    return unread or [one for one in found if one is not None and not isinstance(one, Unread)]


async def _read_namespaces(everywhere: KubernetesCluster, namespace: str) -> Listed:
    if not namespace:
        return await _attempt(everywhere.list(Kind.NAMESPACE, managed=False))
    found = await _attempt(everywhere.get(Ref(Kind.NAMESPACE, "", namespace)))
    if isinstance(found, Unread):
        return found
    return [found] if found else []


async def _read_operators(connect: Connect, namespace: str) -> list[OperatorReadings] | Unread:
    deployments = await _attempt(connect(namespace).list(Kind.DEPLOYMENT, managed=False))
    if isinstance(deployments, Unread):
        return deployments
    return [await _read_operator(connect(""), one) for one in Installation.find(deployments)]


async def _read_operator(cluster: KubernetesCluster, installation: Installation) -> OperatorReadings:
    lease: Found = await _attempt(cluster.get(installation.lease))
    return OperatorReadings(installation, lease, await _attempt(_read_lacks(cluster, installation)))


async def _read_lacks(cluster: KubernetesCluster, installation: Installation) -> list[Right]:
    rights = installation.needed_rights
    own = await cluster.create(_review(Kind.OWN_REVIEW, {}))
    account = installation.account
    # Everybody may ask about himself, few about others.
    asks_itself = own["status"]["userInfo"].get("username") == account
    kind = Kind.OWN_ACCESS_REVIEW if asks_itself else Kind.ACCESS_REVIEW
    who = {} if asks_itself else {"user": account, "groups": _groups(installation.namespace)}

    async def is_allowed(right: Right) -> bool:
        answer = await cluster.create(_review(kind, {**who, "resourceAttributes": _attributes(right)}))
        return bool(answer["status"].get("allowed"))

    allowed = await asyncio.gather(*map(is_allowed, rights))
    return [right for right, granted in zip(rights, allowed, strict=True) if not granted]


def _review(kind: Kind, spec: Manifest) -> Manifest:
    resource = kind.value
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": ""}, "spec": spec}


def _attributes(right: Right) -> dict[str, str]:
    resource, _, subresource = right.resource.partition("/")
    named = right._asdict()
    return {**named, "resource": resource, "subresource": subresource}


def _groups(namespace: str) -> list[str]:
    """Those that every service account of a namespace is in."""
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
