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
    # Without it the API server takes no pod.
    control_plane.kubectl("wait", "--for=create", "--timeout=30s", "--namespace=ai", "serviceaccount/default")
    return control_plane


def blocks(page: Path) -> Iterator[dict[str, Any]]:
    """What a page shows as YAML, and what it has kubectl read from its input, in the namespace that it names."""
    text = re.sub(r"\b(sha256:\w+)\.\.\.", lambda digest: digest[1].ljust(len("sha256:") + 64, "0"), page.read_text())
    for block in re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from (document for document in yaml.safe_load_all(block) if document)
    typed = r"^kubectl -n (\S+) apply -f - <<'EOF'\n(.*?)^EOF$"
    for namespace, block in re.findall(typed, text, flags=re.MULTILINE | re.DOTALL):
        for document in yaml.safe_load_all(block):
            yield {**document, "metadata": {**document["metadata"], "namespace": namespace}}


def complete(block: dict[str, Any]) -> dict[str, Any]:
    """A spec that is shown alone, as the resource that it is meant for."""
    identity = {"apiVersion": "qwenvl.io/v1alpha1", "kind": "QwenVLDeployment", "metadata": {"name": "shown"}}
    return {**identity, **block} if block.keys() == {"spec"} else block


def shown() -> list[dict[str, Any]]:
    manifests = [manifest for page in PAGES for block in blocks(page) if "kind" in (manifest := complete(block))]
    return [manifest for manifest in manifests if not manifest["apiVersion"].startswith(FOREIGN)]


def test_no_manifest_of_a_page_is_left_out() -> None:
    for page in PAGES:
        found = [block for block in blocks(page) if "kind" in block]
        assert len(found) == len(re.findall(r"^kind: ", page.read_text(), flags=re.MULTILINE)), page


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
