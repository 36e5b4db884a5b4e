"""Where the client's credentials come from, and that they are read again."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.aio.config import incluster_config

from qwenvl_operator.cluster import _configuration, connection, open_client
from qwenvl_operator.errors import StartError
from qwenvl_operator.kubeconfig import default_namespace

AUTHORITY = "-----BEGIN CERTIFICATE-----"


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(name="token_file")
def _token_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A pod's service account."""
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("first")
    authority.write_text(AUTHORITY)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    return token


def rotate(token_file: Path) -> None:
    token_file.write_text("second")


def kubeconfig(folder: Path, token: str = "outside", context: str = "x", **changes: Any) -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "http://10.0.0.2:6443"}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": context,
        **changes,
    }
    folder.mkdir(exist_ok=True)
    path = folder / "config"
    path.write_text(json.dumps(config))
    return path


async def test_in_a_pod_the_service_account_is_used_and_read_again(token_file: Path) -> None:
    first = await connection()
    assert (first.server, first.scheme.lower(), first.token) == ("https://10.0.0.1:443", "bearer", "first")
    rotate(token_file)
    assert (await connection()).token == "second"


async def test_a_client_that_lives_on_takes_the_rotated_token(
    token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = await _configuration()
    assert (await configuration.get_api_key_with_prefix("BearerToken")).split() == ["bearer", "first"]
    rotate(token_file)
    later = SimpleNamespace(now=lambda: datetime.now() + timedelta(minutes=2))
    monkeypatch.setattr(incluster_config, "datetime", SimpleNamespace(datetime=later, timedelta=timedelta))
    assert (await configuration.get_api_key_with_prefix("BearerToken")).split() == ["bearer", "second"]


async def test_a_kubeconfig_that_is_named_goes_first(
    token_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "named")))
    assert (await connection()).token == "outside"


async def test_outside_a_pod_the_kubeconfig_of_the_home_is_used(tmp_path: Path) -> None:
    kubeconfig(tmp_path / ".kube", token="home")
    assert (await connection()).token == "home"


async def test_without_any_the_error_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"no kubeconfig at {tmp_path}/.kube/config: set KUBECONFIG"):
        await connection()


async def test_a_broken_kubeconfig_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "named", context="gone")
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(StartError, match=r"cannot be read: .*gone"):
        await connection()


MALFORMED = {
    "no YAML": ("token: [made-up", "is no YAML: "),
    "no text": (b"\xff\xfe\x00\xd8", "is no YAML: "),
    "empty": ("", "no current context"),
    "a scalar": ("nothing", "is no kubeconfig: "),
    "a list": ("- a", "is no kubeconfig: "),
    "contexts of no shape": ("contexts: 3", "is no kubeconfig: contexts: "),
    "a context without a name": ("contexts: [{context: {}}]", "is no kubeconfig: contexts.0.name: "),
    "no context": ("{contexts: null, current-context: null}", "no current context"),
    "a server that is no text": (
        "{current-context: x, users: null, contexts: [{name: x, context: {cluster: c}}],"
        " clusters: [{name: c, cluster: {server: 5}}]}",
        "cannot be read: ",
    ),
    "data that is none": (
        "{current-context: x, users: null, contexts: [{name: x, context: {cluster: c}}],"
        " clusters: [{name: c, cluster: {server: 'https://a', certificate-authority-data: x}}]}",
        "cannot be read: ",
    ),
}


@pytest.mark.parametrize(("content", "said"), MALFORMED.values(), ids=MALFORMED)
async def test_a_kubeconfig_of_another_shape_is_named(
    content: str | bytes, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "config"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(StartError, match=said) as raised:
        await connection()
    assert str(path) in str(raised.value)
    assert "made-up" not in str(raised.value)


async def test_a_certificate_that_is_none_is_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = {"server": "https://10.0.0.2:6443", "certificate-authority-data": "eA=="}
    path = kubeconfig(tmp_path / "named", clusters=[{"name": "c", "cluster": cluster}])
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(StartError, match=r"certificates for https://10\.0\.0\.2:6443 cannot be used"):
        async with open_client():
            pass


async def test_of_several_kubeconfigs_the_first_to_say_something_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.write_text("")
    users = kubeconfig(tmp_path / "users", token="first", context="", contexts=None, clusters=None)
    namespaced = [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ai"}}]
    first = kubeconfig(tmp_path / "one", token="second", contexts=namespaced)
    second = kubeconfig(tmp_path / "two", token="third", context="y")
    files = (empty, tmp_path / "missing", users, first, second)
    monkeypatch.setenv("KUBECONFIG", ":".join(map(str, files)))
    assert (await connection()).token == "first"
    assert default_namespace() == "ai"


def test_the_namespace_is_that_of_the_context(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kubeconfig(tmp_path / ".kube")
    assert default_namespace() == "default"
    request.getfixturevalue("token_file")
    assert default_namespace() == "default", "a pod has no context"


async def test_a_token_is_not_shown(token_file: Path) -> None:
    assert "first" not in repr(await connection())
