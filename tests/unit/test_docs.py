"""What the documents say is what the code says."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from qwenvl_operator.api import reference
from qwenvl_operator.api.v1alpha1 import QwenVLDeploymentSpec
from qwenvl_operator.doctor.findings import Heading
from qwenvl_operator.metrics import Metrics as OperatorMetrics
from qwenvl_operator.reasons import Reason
from qwenvl_runtime.boot import Boot
from qwenvl_runtime.metrics import Metrics as RuntimeMetrics
from qwenvl_runtime.server import ExitCode

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/README.md")])
EXAMPLES = sorted(ROOT.glob("docs/examples/*.yaml"))


def read(path: str) -> str:
    return (ROOT / path).read_text()


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith(("http://", "https://")):
                yield page, target


def test_the_api_reference_is_what_the_models_say() -> None:
    assert read(str(reference.FILE)) == reference.reference_text(), "run `make generate`"


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_heading_in_the_troubleshooting_page(reason: Reason) -> None:
    assert f"\n## {reason}\n" in read("docs/troubleshooting.md")


@pytest.mark.parametrize("heading", list(Heading))
def test_every_page_that_the_doctor_names_has_the_heading(heading: Heading) -> None:
    page, _, anchor = heading.partition("#")
    assert anchor in headings(ROOT / page)


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_explained(code: ExitCode) -> None:
    assert f"\n| {int(code)} | " in read("docs/concepts.md")


def exposed() -> set[str]:
    """The metrics on the operator's page and on the runtime's."""
    runtime = RuntimeMetrics(Boot("r"), in_flight=lambda: 0, tokens=lambda: 0)
    page = generate_latest(OperatorMetrics().registry) + runtime.render()
    names = re.findall(r"^# TYPE (qwenvl_\w+) ", page.decode(), flags=re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


def test_every_metric_is_explained_and_no_other() -> None:
    explained = re.findall(r"^\| `(qwenvl_\w+)", read("docs/operations.md"), flags=re.MULTILINE)
    assert sorted(explained) == sorted(exposed())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_metric_that_a_page_names_exists(page: Path) -> None:
    named = set(re.findall(r"\bqwenvl_(?:operator|runtime)_\w+", page.read_text()))
    histograms = {f"{name}_{part}" for name in exposed() for part in ("sum", "count", "bucket")}
    assert not named - exposed() - histograms


def test_an_alert_stands_with_its_duration_beside_its_expression() -> None:
    [text] = re.findall(r"^```yaml\n(groups:.*?)^```", read("docs/operations.md"), flags=re.MULTILINE | re.DOTALL)
    [group] = yaml.safe_load(text)["groups"]
    assert all(rule.keys() == {"alert", "expr", "for"} for rule in group["rules"])
    assert not [rule["alert"] for rule in group["rules"] if re.search(r"\bfor\b", rule["expr"])]


@pytest.mark.parametrize(("page", "target"), list(links()), ids=str)
def test_a_link_leads_somewhere(page: Path, target: str) -> None:
    file, _, anchor = target.partition("#")
    destination = (page.parent / file).resolve() if file else page
    assert destination.exists()
    assert not anchor or anchor in headings(destination)


def test_every_module_that_contributors_are_sent_to_exists() -> None:
    named = set(re.findall(r"\b[a-z_]+\.py\b", read("CONTRIBUTING.md")))
    roots = ("operator", "runtime", "tests")
    missing = {name for name in named if not any(list(ROOT.glob(f"{root}/**/{name}")) for root in roots)}
    assert not missing - {"__init__.py"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_a_spec_that_the_operator_understands(example: Path) -> None:
    manifest = yaml.safe_load(example.read_text())
    QwenVLDeploymentSpec.model_validate(manifest["spec"])


@pytest.mark.parametrize(
    ("page", "file"),
    [
        ("README.md", "docs/examples/h100.yaml"),
        ("README.md", "docs/examples/a10x2.yaml"),
        ("docs/install.md", "docs/argocd/health.lua"),
    ],
)
def test_a_page_shows_a_file_as_it_is(page: str, file: str) -> None:
    assert f"\n{read(file)}```" in read(page)


def test_the_chart_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    chart = yaml.safe_load(read("charts/qwenvl-operator/Chart.yaml"))
    assert chart["version"] == chart["appVersion"] == version


@pytest.mark.parametrize("key", list(yaml.safe_load(read("charts/qwenvl-operator/values.yaml"))))
def test_every_value_of_the_chart_is_in_its_readme(key: str) -> None:
    assert f"`{key}" in read("charts/qwenvl-operator/README.md")
