"""What stands in the way of a node is said before anything starts, with what to change."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from harness.instance import Instance
from harness.preflight import BUILD, NODE, Machine, Needs, filesystem, may_mount, problems, routes

GIB = 2**30
GOOD = Machine(
    system="Linux",
    architecture="x86_64",
    user_id=0,
    may_mount=True,
    memory=24 * GIB,
    disk=60 * GIB,
    cache=Path("/root/.cache/qwenvl"),
    cache_filesystem="ext4",
    has_cgroups=True,
    routes=((IPv4Network("192.168.1.0/24"), "eth0"),),
)


@pytest.mark.parametrize("needs", [NODE, BUILD])
def test_good_machine(needs: Needs) -> None:
    assert problems(GOOD, needs, Instance("demo")) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "Darwin", "architecture": "arm64"}, ["Linux on x86_64", "Darwin on arm64"]),
        ({"user_id": 1000}, ["needs root", "sudo"]),
        ({"may_mount": False}, ["--privileged"]),
        ({"memory": 2 * GIB}, ["8 GiB of memory", "has 2.0"]),
        ({"disk": GIB}, ["25 GiB of free disk at /root/.cache/qwenvl", "there are 1.0", "QWENVL_CACHE"]),
        ({"cache_filesystem": "overlay"}, ["/root/.cache/qwenvl (overlay)", "QWENVL_CACHE"]),
        ({"cache": Path("/var/lib/qwenvl")}, ["not below /var/lib", "QWENVL_CACHE"]),
        ({"has_cgroups": False}, ["/sys/fs/cgroup"]),
        ({"routes": ((IPv4Network("10.0.0.0/8"), "tun0"),)}, ["10.200.0.0/16", "tun0 has 10.0.0.0/8", "another name"]),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], said: list[str]) -> None:
    (problem,) = problems(replace(GOOD, **change), BUILD, Instance("demo"))  # type: ignore[arg-type]
    for part in said:
        assert part in problem


def test_everything_wrong_is_said_at_once() -> None:
    assert len(problems(replace(GOOD, memory=GIB, disk=GIB, has_cgroups=False), BUILD)) == 3


def test_own_route_of_a_running_node_is_no_problem() -> None:
    node = Instance("demo")
    machine = replace(GOOD, routes=((IPv4Network(node.network), node.interface),))
    assert problems(machine, NODE, node) == []


def test_routes_leave_out_the_default_route() -> None:
    table = (
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
        "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
        "qvl-demo\t0000C80A\t02FFC80A\t0003\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    )
    assert routes(table) == [(IPv4Network("10.200.0.0/16"), "qvl-demo")]


def test_the_file_system_is_that_of_the_deepest_mount() -> None:
    mounts = "overlay / overlay rw 0 0\n/dev/vda /root ext4 rw 0 0\ntmpfs /root/.cache2 tmpfs rw 0 0\n"
    assert filesystem(Path("/root/.cache/qwenvl"), mounts) == "ext4"
    assert filesystem(Path("/srv"), mounts) == "overlay"


@pytest.mark.parametrize(("capabilities", "able"), [("000001ffffffffff", True), ("00000000a80425fb", False)])
def test_mounting_takes_a_capability(capabilities: str, able: bool) -> None:
    assert may_mount(f"Name:\tpython\nCapEff:\t{capabilities}\n") is able
