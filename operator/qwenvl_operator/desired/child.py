"""What every child has in common: name, labels, owner, and a hash of itself."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from qwenvl_operator.api.v1alpha1 import API_VERSION, KIND
from qwenvl_operator.custom_resource import CustomResource
from qwenvl_operator.naming import APPLIED_HASH, labels
from qwenvl_operator.objects import Kind, Manifest


def child(cr: CustomResource, kind: Kind, name: str, **content: Any) -> Manifest:
    """A manifest that the CR controls, so that the garbage collector removes it with the CR."""
    return {
        "apiVersion": kind.value.api_version,
        "kind": kind.value.kind,
        "metadata": {
            "name": name,
            "namespace": cr.key.namespace,
            "labels": labels(cr.key),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": cr.key.name,
                    "uid": cr.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        **content,
    }


def stamp(manifest: Manifest) -> Manifest:
    """The manifest with the hash of its own content, by which a field that is no longer wanted is noticed."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED_HASH: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
