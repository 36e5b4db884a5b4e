"""One QwenVLDeployment as the doctor looks at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.doctor.readings import ClusterReadings, ResourceReadings, Unread
from qwenvl_operator.facts import Facts
from qwenvl_operator.fitness import derive_fit
from qwenvl_operator.objects import Key, Manifest
from qwenvl_operator.observed import Observed, Store
from qwenvl_operator.obstacles import Obstacles, awaited_pods, find_obstacle, has_waited
from qwenvl_operator.pods import is_scheduled
from qwenvl_operator.room import describe_offers, is_asked_for
from qwenvl_operator.status import known_fit
from qwenvl_operator.verdict import living_pods


@dataclass(frozen=True)
class Case:
    """A resource whose spec is understood, and all that was read about it."""

    cr: CustomResource
    cluster: ClusterReadings
    own: ResourceReadings
    observed: Observed | Unread
    """The same snapshot that a reconcile decides on."""

    @classmethod
    def open(cls, cluster: ClusterReadings, own: ResourceReadings) -> Case:
        """Raises InvalidSpec."""
        return cls(CustomResource.parse(own.cr), cluster, own, _observe(own))

    @cached_property
    def facts(self) -> Facts | Unread:
        """What a verdict is made of, but for what pods say of themselves, which is not asked from here.

        As for the operator, Events and nodes that may not be read say nothing.
        """
        if isinstance(self.observed, Unread):
            return self.observed
        pods = self.observed.pods
        return Facts(
            cr=self.cr,
            observed=self.observed,
            now=self.cluster.now,
            obstacles=self._find_obstacles(pods),
            offers=self._describe_offers(pods),
            fit=derive_fit(self.cr.spec, None, known_fit(self.own.cr.get("status", {}), self.cr.revision)),
        )

    @property
    def unborn(self) -> int:
        """Pods that have yet to be made."""
        return max(0, self.cr.replicas - len(self._living()))

    @property
    def unplaced(self) -> int:
        """Pods that have yet to get a node, those that are not made yet among them."""
        return max(0, self.cr.replicas - sum(is_scheduled(pod) for pod in self._living()))

    def _find_obstacles(self, pods: Iterable[Manifest]) -> Obstacles:
        events = [] if isinstance(self.own.events, Unread) else self.own.events
        waiting = [pod for pod in awaited_pods(self.cr, pods) if has_waited(pod, self.cluster.now)]
        found = {
            pod["metadata"]["name"]: find_obstacle(
                event for event in events if event.get("regarding", {}).get("uid") == pod["metadata"]["uid"]
            )
            for pod in waiting
        }
        return {name: obstacle for name, obstacle in found.items() if obstacle is not None}

    def _describe_offers(self, pods: Iterable[Manifest]) -> str:
        nodes = self.cluster.nodes
        return describe_offers(self.cr, nodes) if not isinstance(nodes, Unread) and is_asked_for(self.cr, pods) else ""

    def _living(self) -> list[Manifest]:
        return [] if isinstance(self.observed, Unread) else living_pods(self.observed)


def _observe(own: ResourceReadings) -> Observed | Unread:
    if isinstance(own.children, Unread):
        return own.children
    if isinstance(own.pods, Unread):
        return own.pods
    store = Store()
    for manifest in (own.cr, *own.children, *own.pods):
        store.put(manifest)
    metadata = own.cr["metadata"]
    return store.observe(Key(metadata["namespace"], metadata["name"])) or Observed(own.cr, {}, ())
