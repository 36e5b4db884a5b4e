"""Makes one CR so: observe, decide, write what differs, say what is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace

from qwenvl_operator.announcements import Announcements
from qwenvl_operator.causes import explain_refusal
from qwenvl_operator.children import Children
from qwenvl_operator.cluster import Cluster
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.desired import Recorded, desired_children, render
from qwenvl_operator.errors import ApiError, InvalidSpec, Waiting
from qwenvl_operator.facts import Facts, Verdict
from qwenvl_operator.fitness import check_spec, derive_fit
from qwenvl_operator.footprint import Fit
from qwenvl_operator.gatekeeper import Gatekeeper, Warmups
from qwenvl_operator.naming import config_map_name
from qwenvl_operator.objects import Key, Kind, Ref, ref_of
from qwenvl_operator.observed import Observed, Store
from qwenvl_operator.obstacles import awaited_pods
from qwenvl_operator.patience import Hiccups, Patience
from qwenvl_operator.permissions import Denials
from qwenvl_operator.plan import make_plan, refuse_foreign
from qwenvl_operator.pods import revision_of
from qwenvl_operator.reasons import Reason
from qwenvl_operator.replacement import explain, pods_to_replace
from qwenvl_operator.reports import Reports
from qwenvl_operator.rollout import Strategy, choose_strategy, needs_room
from qwenvl_operator.settings import Settings
from qwenvl_operator.snapshots import loading_pods, read_progress
from qwenvl_operator.status import Status, derive_problem_status, derive_status, known_fit
from qwenvl_operator.surroundings import Surroundings

PAST_RETRY = 0.1
# What a write left as it was, by the doing of a webhook, is tried again until it is clear that it is no accident.
UNDONE_RETRY = 5.0
# Between two looks at pods that load, or have no container yet: what they wait for is in no watched object.
LOOK_AGAIN = 10.0

logger = logging.getLogger(__name__)


class Reconciler:
    """One pass over one CR; called again whenever something about the CR may have changed."""

    def __init__(
        self,
        store: Store,
        cluster: Cluster,
        settings: Settings,
        reports: Reports,
        *,
        denials: Denials,
        now: Callable[[], float] = time.time,
        patience: Patience | None = None,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._settings = settings
        self._reports = reports
        self._denials = denials
        self._children = Children(store, cluster, now)
        self._gatekeeper = Gatekeeper(store, cluster, reports, now)
        self._now = now
        self._announcements = Announcements(store, cluster, settings.identity, now, patience or Patience())
        self._hiccups = Hiccups()
        self._surroundings = Surroundings(cluster, settings)

    async def __call__(self, key: Key) -> float | None:
        """Returns the seconds after which to look again, None to wait for an event. Raises ApiError."""
        observed = self._store.observe(key)
        if observed is None or observed.cr["metadata"].get("deletionTimestamp"):
            self._children.forget(key)
            self._announcements.forget(key)
            self._hiccups.over(key)
            return None
        untold = _untold_revision(observed, self._announcements.newest(key, observed.cr))
        warmups = await self._gatekeeper.tend(key, observed.pods, untold=untold)
        try:
            cr, again = await self._make_so(key, observed)
            await self._replace_pods(key, observed)
            if warmups.refusal:
                raise warmups.refusal
        except InvalidSpec as error:
            self._hiccups.over(key)
            await self._say_problem(key, Verdict(Reason(error.reason), error.message, stalled=True))
            return _soonest(warmups.again, error.after)
        except Waiting as waiting:
            held = await self._say_if_lasting(key, Reason.APPLYING, waiting.message, waiting.message)
            return _soonest(held, warmups.again, waiting.after)
        except ApiError as error:
            if error.is_refusal:
                await self._say_problem(key, Verdict(*explain_refusal(error), stalled=True))
            elif error.is_fault:
                await self._say_if_lasting(key, Reason.APPLY_REFUSED, f"{error.call}: {error.status}", str(error))
            raise
        self._hiccups.over(key)
        held = await self._say_what_is(cr, self._store.observe(key) or observed, warmups)
        return _soonest(held, warmups.again, again)

    async def _say_what_is(self, cr: CustomResource, current: Observed, warmups: Warmups) -> float | None:
        """Returns the seconds after which to look again at what no watch tells of."""
        loading = loading_pods(cr, current.pods)
        progress = await read_progress(self._reports, loading)
        awaited = awaited_pods(cr, current.pods)
        obstacles = await self._surroundings.read_obstacles(awaited, self._now())
        report = warmups.newest(cr.revision)
        previous = self._announcements.newest(cr.key, current.cr)
        fit = derive_fit(cr.spec, report.engine if report else None, known_fit(previous, cr.revision))
        facts = Facts(
            cr=cr,
            observed=_with_status(current, previous),
            now=self._now(),
            unreadable=warmups.unreadable,
            progress=progress,
            obstacles=obstacles,
            offers=await self._surroundings.describe_offers(cr, current.pods),
            fit=fit,
        )
        held = await self._announcements.say(cr.key, current.cr, derive_status(facts, report))
        return _soonest(held, LOOK_AGAIN if loading or awaited else None)

    async def _make_so(self, key: Key, observed: Observed) -> tuple[CustomResource, float | None]:
        """Bring the children to what the spec says. Raises InvalidSpec for whatever a person has to see to."""
        try:
            cr = CustomResource.parse(observed.cr)
            again = await self._apply_children(cr, observed)
        except (InvalidSpec, ApiError):
            await self._children.suspend(key)
            raise
        if right := self._denials.about(key.namespace):
            raise InvalidSpec(Reason.PERMISSION_MISSING, right.explain())
        if conflict := self._children.conflicts.ongoing(key, self._now()):
            raise InvalidSpec(Reason.FIELD_MANAGER_CONFLICT, conflict.message, after=conflict.again)
        return cr, again

    async def _apply_children(self, cr: CustomResource, observed: Observed) -> float | None:
        """Returns the seconds after which to see whether what was written has stayed."""
        recorded = self._recorded(cr, observed)
        strategy = await self._strategy(cr, observed)
        desired = desired_children(cr, recorded, strategy)
        plan = make_plan(desired, observed, cr.revision, self._children.injected(cr.key))
        if plan.apply or plan.prune:
            await self._refuse_past(cr, observed)
        have_stayed = True
        for manifest in plan.apply:
            ref = ref_of(manifest)
            if ref in observed.children:
                have_stayed &= await self._children.repair(cr.key, manifest)
                continue
            refuse_foreign(ref, await self._cluster.get(ref), cr.uid)
            have_stayed &= await self._children.apply(cr.key, manifest)
        for live in plan.prune:
            await self._children.delete(cr.key, live)
        return None if have_stayed else UNDONE_RETRY

    async def _replace_pods(self, key: Key, observed: Observed) -> None:
        for pod in pods_to_replace(observed.pods):
            await self._announcements.warn(key, observed.cr, Reason.GPU_LOST, explain(pod))
            await self._children.delete(key, pod)

    def _recorded(self, cr: CustomResource, observed: Observed) -> Recorded:
        ref = Ref(Kind.CONFIG_MAP, cr.key.namespace, config_map_name(cr.key, cr.revision))
        known = Recorded.of(observed.children[ref]) if ref in observed.children else None
        return known or self._render(cr)

    def _render(self, cr: CustomResource) -> Recorded:
        """A revision that was let in once is not asked again: a later version's arithmetic must not stop what runs."""
        fit = check_spec(cr.spec)
        if isinstance(fit, Fit) and not fit.fits:
            raise InvalidSpec(Reason.DOES_NOT_FIT, fit.message)
        return render(cr, self._settings.runtime_image)

    async def _strategy(self, cr: CustomResource, observed: Observed) -> Strategy:
        live, room = observed.deployment(), None
        if needs_room(cr, live, observed.pods):
            room = await self._surroundings.find_room(cr)
        return choose_strategy(cr, live, observed.pods, room=room)

    async def _refuse_past(self, cr: CustomResource, observed: Observed) -> None:
        """Watches lag, and after a restart a list may be older than what was acted on before: no write follows a spec
        that has been replaced, nor is a child made for a resource that is gone."""
        live = await self._cluster.get(Ref(Kind.CR, *cr.key))
        if live is None:
            self._store.remove(observed.cr)
            raise Waiting(PAST_RETRY, "The resource is gone.")
        if (live["metadata"]["uid"], live["metadata"]["generation"]) != (cr.uid, cr.generation):
            self._store.put(live)
            raise Waiting(PAST_RETRY, "The resource has changed.")

    async def _say_if_lasting(self, key: Key, reason: Reason, cause: str, message: str) -> float | None:
        lasting = self._hiccups.lasting(key, cause, message, self._now())
        return await self._say_problem(key, Verdict(reason, lasting)) if lasting else None

    async def _say_problem(self, key: Key, verdict: Verdict) -> float | None:
        """Returns the seconds after which to look again where it is held back."""
        observed = self._store.observe(key)
        if observed is None:
            return None
        previous = _with_status(observed, self._announcements.newest(key, observed.cr))
        status = derive_problem_status(previous, key, verdict, self._now())
        return await self._announcements.say(key, observed.cr, status)


def _untold_revision(observed: Observed, status: Status) -> str:
    """The revision that runs if status says nothing of its warm-up, else none."""
    deployment = observed.deployment()
    if deployment is None:
        return ""
    revision = revision_of(deployment["spec"]["template"])
    return "" if "warmup" in status and status.get("revision") == revision else revision


def _soonest(*seconds: float | None) -> float | None:
    return min((span for span in seconds if span is not None), default=None)


def _with_status(observed: Observed, status: Status) -> Observed:
    return replace(observed, cr={**observed.cr, "status": status})
