"""The harness's decisions: names and addresses, keys of what is built, and archives of what a node lacks."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from harness import cgroups, components, containerd, images, leftovers, node, pause_image, tools
from harness.cache import files_key
from harness.commands import CommandError, run
from harness.instance import Instance, InstanceNameError
from harness.pid_one import Component, Plan


@pytest.mark.parametrize("name", ["", "Demo", "a-b", "1st", "averylongname", "../x"])
def test_an_instance_has_a_short_plain_name(name: str) -> None:
    with pytest.raises(InstanceNameError, match="small letters and digits"):
        Instance(name)


@pytest.mark.parametrize("name", ["demo", "test", "mine", "abcdefghijk"])
def test_the_addresses_of_an_instance_lie_in_its_network(name: str) -> None:
    instance = Instance(name)
    network, pods, services = (
        IPv4Network(text) for text in (instance.network, instance.pod_network, instance.service_network)
    )
    assert pods.subnet_of(network)
    assert services.subnet_of(network)
    assert not pods.overlaps(services)
    assert IPv4Address(instance.kubernetes_service) == services[1]
    for address in (instance.host_address, instance.node_address):
        assert IPv4Address(address) in network
        assert IPv4Address(address) not in pods
        assert IPv4Address(address) not in services
    assert len(instance.interface) <= 15, "the kernel takes no longer name"


def test_demo_and_test_run_side_by_side() -> None:
    assert Instance("demo").network != Instance("test").network


def test_the_key_of_files_follows_names_and_contents_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.py").write_text("1")
    key = files_key([tmp_path / "a"], tmp_path)
    os.utime(tmp_path / "a" / "b.py", (0, 0))
    (tmp_path / "a" / "__pycache__").mkdir()
    (tmp_path / "a" / "__pycache__" / "b.pyc").write_text("compiled")
    assert files_key([tmp_path / "a"], tmp_path) == key
    (tmp_path / "a" / "b.py").write_text("2")
    assert files_key([tmp_path / "a"], tmp_path) != key
    (tmp_path / "a" / "b.py").rename(tmp_path / "a" / "c.py")
    assert files_key([tmp_path / "a"], tmp_path) != key


def test_the_versions_stand_in_the_go_module_alone() -> None:
    assert tools.kubernetes_version().startswith("v1.34.")
    assert f"/{tools.kubernetes_version()}-" in str(tools.tools_folder())


def test_assets_of_kubebuilder_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    monkeypatch.setenv("QWENVL_CACHE", str(tmp_path / "cache"))
    assert tools.ready_made("etcd") is None
    for name in ("etcd", "kubelet"):
        (tmp_path / name).touch(mode=0o755)
    assert tools.ready_made("etcd") == tmp_path / "etcd"
    assert tools.ready_made("kubelet") is None, "a node's own programs are of one version"


def test_an_unfinished_build_is_not_taken_for_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWENVL_CACHE", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)

    def interrupted(*_argv: object, cwd: Path, **_rest: object) -> str:
        (tools.tools_folder() / "unfinished" / "etcd").touch(mode=0o755)
        raise KeyboardInterrupt

    monkeypatch.setattr(tools, "run", interrupted)
    monkeypatch.setattr(tools, "find_go", lambda: "go")
    with pytest.raises(KeyboardInterrupt):
        tools.tool("etcd")
    assert tools.ready_made("etcd") is None


def test_missing_packages_without_root_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "find_system", lambda name: None if name in {"ctr", "runc"} else f"/usr/bin/{name}")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(tools.MissingToolError, match="sudo apt-get install containerd runc"):
        tools.install_packages()


def test_missing_go_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    with pytest.raises(tools.MissingToolError, match=r"go\.dev/dl"):
        tools.find_go()


@pytest.mark.parametrize(
    ("version", "toolchain", "suffices"),
    [
        ("go1.26.8", "local", True),
        ("go1.27rc1", "local", True),
        ("go1.24.1", "auto", True),
        ("go1.24.1", "local", False),
        ("go1.19.8", "auto", False),
    ],
)
def test_an_old_go_is_refused_unless_it_fetches_a_new_one(version: str, toolchain: str, suffices: bool) -> None:
    assert tools.go_suffices(version, toolchain) is suffices


def test_a_failed_command_says_what_it_printed() -> None:
    with pytest.raises(CommandError, match=r"(?s)ended with code 3.*no such thing") as failed:
        run(sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(3)")
    assert failed.value.code == 3


def test_both_versions_of_cgroups_are_found() -> None:
    mounts = (
        "proc /proc proc rw 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n"
        "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
    )
    assert cgroups.hierarchies(mounts) == [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified")]


def test_processes_are_found_by_module_and_name() -> None:
    instance = Instance("absent")
    assert leftovers.processes(leftovers.SUPERVISOR, instance) == []
    waits = "import sys; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", waits, "-m", leftovers.SUPERVISOR, "absent"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert leftovers.processes(leftovers.SUPERVISOR, instance) == [process.pid]
        assert leftovers.processes(leftovers.SUPERVISOR, Instance("absen")) == []
        assert leftovers.processes(leftovers.PID_ONE, instance) == []


def test_a_plan_is_read_as_it_was_written() -> None:
    plan = Plan([["mount", "x"]], [Component("etcd", ["etcd", "--name=a"], "/run/etcd.sock")], "/logs", "/ca.crt")
    assert Plan.read(plan.written()) == plan


def test_the_first_things_of_a_node_are_its_own_mounts() -> None:
    commands = node.setup(Instance("demo"))
    assert commands[0] == ["mount", "--make-rshared", "/"]
    on_host = [command for command in commands if command[0] == "nsenter"]
    assert all("qvl-demo" in command or "10.200.0.0/16" in command for command in on_host), "nothing else on the host"


def test_a_loopback_apiserver_is_in_no_endpoints() -> None:
    plane = components.ControlPlane(Path("/s"), "127.0.0.1", 1, "10.0.0.0/24", has_nodes=False)
    assert "--endpoint-reconciler-type=none" in components.apiserver(plane, Path("apiserver"))


def test_an_archive_holds_only_what_the_receiver_lacks(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"ELF")
    layout = tmp_path / "layout"
    pause_image.write_layout(layout, program)
    digest = containerd.find_image(layout, "dev")["digest"]
    *others, manifest = containerd.image_blobs(layout, digest)
    assert digest == f"sha256:{manifest}"

    stream = io.BytesIO()
    containerd.write_archive(stream, layout, "dev", "localhost/pause:dev", present=others)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        assert archive.getnames() == ["oci-layout", "index.json", f"blobs/sha256/{manifest}"]
        index = json.loads(archive.extractfile("index.json").read())  # type: ignore[union-attr]
    assert index["manifests"][0]["annotations"] == {"io.containerd.image.name": "localhost/pause:dev"}


def test_an_image_is_built_anew_when_what_it_is_made_of_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "REPOSITORY", tmp_path)
    dockerfile, source = tmp_path / "Dockerfile", tmp_path / "source.py"
    dockerfile.write_text("FROM scratch")
    source.write_text("1")
    image = images.Image("localhost/x:dev", dockerfile, "1 s", sources=(source,))
    key = image.key()
    assert image.key() == key
    source.write_text("2")
    assert image.key() != key
