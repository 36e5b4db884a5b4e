"""Every manifest that the documentation shows is one that a real kube-apiserver accepts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cluster import Cluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
CRD = ROOT / "crds/qwenvl.io_qwenvldeployments.yaml"
EXAMPLES = sorted(ROOT.glob("docs/examples/*.yaml"))
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
# What a cluster does not know by itself: Argo CD's kinds, and what only kubectl reads.
FOREIGN = ("argoproj.io", "kustomize.config.k8s.io")


@pytest.fixture(name="cluster", scope="module")
def _cluster(control_plane: Cluster) -> Cluster:
    control_plane.kubectl("apply", "--server-side", "--force-conflicts", "--filename", CRD)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "--filename", CRD)
    control_plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ai"}})
    return control_plane


def blocks(page: Path) -> Iterator[dict[str, Any]]:
    """The manifests that a page shows."""
    for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL):
        yield from (document for document in yaml.safe_load_all(text) if document)


def shown() -> list[dict[str, Any]]:
    manifests = [manifest for page in PAGES for manifest in blocks(page) if "kind" in manifest]
    return [manifest for manifest in manifests if not manifest["apiVersion"].startswith(FOREIGN)]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_accepted(cluster: Cluster, example: Path) -> None:
    cluster.kubectl("create", "--dry-run=server", f"--filename={example}")


@pytest.mark.parametrize("manifest", shown(), ids=lambda manifest: str(manifest["kind"]))
def test_what_a_page_shows_is_accepted(cluster: Cluster, manifest: dict[str, Any]) -> None:
    cluster.kubectl("create", "--dry-run=server", "--filename=-", input=yaml.safe_dump(manifest))


def test_the_kustomization_that_is_shown_sets_both_images(cluster: Cluster, tmp_path: Path) -> None:
    (kustomization,) = (block for block in blocks(ROOT / "docs/install.md") if "resources" in block)
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    shutil.copy(ROOT / "docs/manifests/qwenvl-operator.yaml", tmp_path)
    manifests = list(yaml.safe_load_all(cluster.kubectl("kustomize", tmp_path)))
    (deployment,) = (manifest for manifest in manifests if manifest["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "REGISTRY/qwenvl-operator:0.1.0"
    assert {"name": "QWENVL_RUNTIME_IMAGE", "value": "REGISTRY/qwenvl-runtime:0.1.0"} in container["env"]
