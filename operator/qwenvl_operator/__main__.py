"""`python -m qwenvl_operator`: the operator's process, put together and run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import sys
import uuid

from pydantic import ValidationError

from qwenvl_operator import handlers
from qwenvl_operator.cluster import KubernetesCluster, open_client
from qwenvl_operator.errors import StartError
from qwenvl_operator.feed import Feed
from qwenvl_operator.heartbeat import beat
from qwenvl_operator.leader import Leader
from qwenvl_operator.lease import Lease, LeaseLost
from qwenvl_operator.logs import configure_logging
from qwenvl_operator.metrics import Metrics
from qwenvl_operator.observed import Store
from qwenvl_operator.permissions import Denials
from qwenvl_operator.reconcile import Reconciler
from qwenvl_operator.reports import PodReports
from qwenvl_operator.settings import PREFIX, Settings
from qwenvl_operator.workqueue import WorkQueue

# Lists are decoded into millions of objects that have no cycles and go by themselves: looking for cycles among them as
# often as Python does by default took a fifth of the time of a restart.
COLLECTION = (50_000, 20, 50)

logger = logging.getLogger("qwenvl_operator")


async def operate(settings: Settings) -> None:
    """Run until a signal comes. Raises when the lease or a watch is lost: a new process starts clean."""
    metrics = Metrics()
    metrics.serve(settings.metrics_port)
    if not settings.identity:
        settings = settings.model_copy(update={"identity": f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"})
    async with open_client() as client:
        lease = Lease(
            KubernetesCluster(client, metrics),
            namespace=settings.lease_namespace,
            name=settings.lease_name,
            identity=settings.identity,
        )
        cluster = KubernetesCluster(client, metrics, namespaces=settings.namespaces, may_write=lease.is_held)
        store = Store()
        denials = Denials()
        queue = WorkQueue(Reconciler(store, cluster, settings, PodReports(), denials=denials), metrics)
        feed = Feed(
            store, cluster, queue, metrics, denials, interval=settings.resync_seconds, namespaces=settings.namespaces
        )
        leader = Leader(lease, feed, queue, metrics)
        stop = asyncio.Event()
        leading = asyncio.create_task(leader.run(), name="leader")
        leading.add_done_callback(lambda _: stop.set())
        heartbeat = asyncio.create_task(beat(metrics.lagged), name="heartbeat")
        try:
            await handlers.watch(feed, settings, stop=stop, clean_up=lambda: leader.stop(leading))
        finally:
            heartbeat.cancel()
            await leader.stop(leading)
        if not leading.cancelled():
            leading.result()


def main() -> int:
    configure_logging()
    gc.set_threshold(*COLLECTION)
    try:
        settings = Settings.from_environment(os.environ)
    except ValidationError as error:
        for fault in error.errors():
            name = PREFIX + str(fault["loc"][0]).upper()
            logger.error("environment variable %s: %s", name, fault["msg"])
        return 2
    try:
        asyncio.run(operate(settings))
    except StartError as error:
        logger.error("%s", error)
        return 2
    except LeaseLost as error:
        logger.error("%s", error)
        return 1
    except Exception as error:  # the outermost loop of the process: the exit code is all that is left to say it by
        logger.critical("the operator ends by a fault: %s", error, exc_info=error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
