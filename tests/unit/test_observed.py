"""The store keeps the newest state, whatever order the news comes in."""

from __future__ import annotations

import json
import tracemalloc

from samples import KEY, confirm, cr_manifest, custom_resource, live_children, pod

from qwenvl_operator.objects import Key, Kind, Manifest
from qwenvl_operator.observed import Observed, Store

CR = custom_resource()
BYTES_FOR_EACH = 12 * 1024
"""Of 30 KiB for each resource; the rest is for kopf, for the queue, and for lists while they are read."""


def version(manifest: Manifest, number: int, **metadata: object) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(number), **metadata}}


def filled() -> Store:
    store = Store()
    store.put(cr_manifest())
    for child in live_children(CR).values():
        store.put(child)
    store.put(pod(CR))
    return store


def seen(store: Store) -> Observed:
    observed = store.observe(KEY)
    assert observed is not None
    return observed


def test_a_snapshot_holds_what_belongs_to_the_cr() -> None:
    store = filled()
    store.put({**pod(CR, "stranger"), "metadata": {**pod(CR)["metadata"], "name": "stranger", "labels": {}}})
    observed = seen(store)
    assert len(observed.children) == 5
    assert [item["metadata"]["name"] for item in observed.pods] == ["reports-1"]
    assert store.keys() == {KEY}
    assert store.observe(Key("ai", "other")) is None


def test_children_of_an_earlier_cr_of_the_same_name_are_not_its_own() -> None:
    store = filled()
    store.put(version(cr_manifest(), 99, uid="another", creationTimestamp="2028-01-01T00:00:00Z"))
    assert seen(store).children == {}


def test_old_news_changes_nothing() -> None:
    store = filled()
    store.put(version(pod(CR, ready=True), 9))
    store.put(version(pod(CR), 8))
    assert seen(store).pods[0]["metadata"]["resourceVersion"] == "9"


def test_the_end_of_an_earlier_object_does_not_remove_its_successor() -> None:
    store = filled()
    store.put(version(pod(CR), 9, uid="second", creationTimestamp="2028-01-01T00:00:00Z"))
    store.remove(pod(CR))
    assert len(seen(store).pods) == 1


def test_the_late_answer_to_a_write_does_not_bring_back_what_has_gone() -> None:
    store = filled()
    store.remove(version(pod(CR), 9))
    store.put(version(pod(CR), 8))
    assert seen(store).pods == ()
    # A namesake, made within the same second, is another matter.
    store.put(version(pod(CR), 10, uid="second"))
    assert [item["metadata"]["uid"] for item in seen(store).pods] == ["second"]


def test_a_list_removes_ghosts() -> None:
    store = filled()
    confirm(store, Kind.POD, [], store.mark())
    assert seen(store).pods == ()


def test_a_list_is_older_than_what_came_after_it_was_asked_for() -> None:
    store = filled()
    mark = store.mark()
    store.put(pod(CR, "born-since"))
    store.remove(pod(CR))
    confirm(store, Kind.POD, [pod(CR)], mark)
    assert [item["metadata"]["name"] for item in seen(store).pods] == ["born-since"]


def test_what_came_and_went_during_a_list_is_no_ghost() -> None:
    store = filled()
    mark = store.mark()
    store.remove(pod(CR, "brief"))
    confirm(store, Kind.POD, [pod(CR), pod(CR, "brief")], mark)
    assert [item["metadata"]["name"] for item in seen(store).pods] == ["reports-1"]


def test_a_list_of_one_kind_leaves_the_others_alone() -> None:
    store = filled()
    confirm(store, Kind.CONFIG_MAP, [], store.mark())
    observed = seen(store)
    assert len(observed.children) == 4
    assert len(observed.pods) == 1


def test_a_list_of_one_namespace_leaves_the_others_alone() -> None:
    store = filled()
    confirm(store, Kind.POD, [], store.mark(), "lab")
    assert len(seen(store).pods) == 1
    confirm(store, Kind.POD, [], store.mark(), KEY.namespace)
    assert seen(store).pods == ()


def test_managed_fields_are_not_kept() -> None:
    store = filled()
    store.put(version(pod(CR), 9, managedFields=[{"manager": "kubelet"}]))
    assert "managedFields" not in seen(store).pods[0]["metadata"]


def test_a_resource_takes_little_memory() -> None:
    texts = [json.dumps(manifest) for manifest in (cr_manifest(), *live_children(CR).values(), pod(CR))]
    store, count = Store(), 50
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(count):
            for text in texts:
                store.put(json.loads(text.replace(KEY.name, f"reports-{number}")))
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(store.keys()) == count
    assert (after - before) / count < BYTES_FOR_EACH


def test_what_is_kept_is_what_was_seen() -> None:
    observed = seen(filled())
    assert observed.cr == cr_manifest()
    assert observed.children == live_children(CR)
    assert observed.pods == (pod(CR),)


def test_a_second_look_costs_nothing_until_something_has_changed() -> None:
    store = filled()
    first = seen(store)
    assert seen(store) is first
    store.put(version(cr_manifest(replicas=3), 90, name="other"))
    assert seen(store) is first, "another's"
    store.put(version(cr_manifest(replicas=3), 91))
    second = seen(store)
    assert second.cr["spec"]["replicas"] == 3
    store.remove(version(second.pods[0], 92))
    assert len(seen(store).pods) == len(second.pods) - 1
    store.drop_missing(Kind.CR, set(), store.mark())
    assert store.observe(KEY) is None
