"""What nodes have to give and what they say of pods, where the operator may look: nothing waits for that right."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from qwenvl_operator.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.errors import ApiError
from qwenvl_operator.objects import Kind, Manifest
from qwenvl_operator.obstacles import Obstacle, Obstacles, find_obstacle, has_waited
from qwenvl_operator.room import Room, describe_offers, find_room, is_asked_for
from qwenvl_operator.settings import Settings

logger = logging.getLogger(__name__)


class Surroundings:
    """Looks when it is asked, and keeps nothing. Every call raises ApiError, but not for want of the right."""

    def __init__(self, cluster: Cluster, settings: Settings) -> None:
        self._cluster = cluster
        self._sees_nodes = settings.sees_nodes

    async def find_room(self, cr: CustomResource) -> Room | None:
        """How many more pods the nodes can take; None where they may not be looked at."""
        nodes = await self._list(Kind.NODE)
        pods = await self._list(Kind.POD) if nodes is not None else None
        return None if nodes is None or pods is None else find_room(cr, nodes, pods)

    async def describe_offers(self, cr: CustomResource, pods: Iterable[Manifest]) -> str:
        """Where GPUs are, if one of the CR's pods waits for one; empty where nobody asks or nobody knows."""
        if not is_asked_for(cr, pods):
            return ""
        nodes = await self._list(Kind.NODE)
        return "" if nodes is None else describe_offers(cr, nodes)

    async def read_obstacles(self, pods: Iterable[Manifest], now: float) -> Obstacles:
        """What is in the way of those that have waited for their containers for a while."""
        found = {pod["metadata"]["name"]: await self._read_obstacle(pod) for pod in pods if has_waited(pod, now)}
        return {name: obstacle for name, obstacle in found.items() if obstacle is not None}

    async def _read_obstacle(self, pod: Manifest) -> Obstacle | None:
        try:
            return find_obstacle(await self._cluster.list_events(pod))
        except ApiError as error:
            # Less is said then; that must not keep the rest from being said.
            if not error.is_refusal:
                raise
            return None

    async def _list(self, kind: Kind) -> list[Manifest] | None:
        if not self._sees_nodes:
            return None
        try:
            return await self._cluster.list(kind, managed=False)
        except ApiError as error:
            if error.status != 403:
                raise
            logger.warning("no look at what the nodes have to give: %s", error)
            return None
