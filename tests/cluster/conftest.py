"""The control plane with what the operator watches."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cluster import Cluster

CRD = Path(__file__).parents[2] / "crds/qwenvl.io_qwenvldeployments.yaml"


@pytest.fixture(name="cluster", scope="module")
def _cluster(control_plane: Cluster) -> Cluster:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename", CRD)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", CRD)
    return control_plane
