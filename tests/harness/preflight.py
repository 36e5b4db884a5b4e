"""Whether this machine can run a node or build images, said before anything is started."""

import os
import platform
import shutil
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from harness.cache import cache_folder
from harness.errors import HarnessError
from harness.instance import Instance

_GIB = 2**30
_CAP_SYS_ADMIN = 21
# Process 1 of a node lays a private copy over these; what lies below them would be hidden from it.
OVERLAID = ("/var/lib", "/var/log", "/run")


class PreflightError(HarnessError):
    """This machine cannot do what was asked; the message says what to change."""


@dataclass(frozen=True)
class Needs:
    """What a task takes, in GiB of total memory and of free disk."""

    task: str
    memory_gib: float
    disk_gib: float


NODE = Needs("run a Kubernetes node", memory_gib=4, disk_gib=3)
BUILD = Needs("build the images", memory_gib=8, disk_gib=25)
REBUILD = Needs("build the images anew", memory_gib=8, disk_gib=5)
EVERYTHING = Needs("build and run it all", memory_gib=12, disk_gib=25)
ENGINE = Needs("run a node with vLLM on the CPU", memory_gib=12, disk_gib=3)


@dataclass(frozen=True)
class Machine:
    """What was seen of this machine; `routes` are the networks that it reaches, each with its interface."""

    system: str
    architecture: str
    user_id: int
    may_mount: bool
    memory: int
    disk: int
    cache: Path
    cache_filesystem: str
    has_cgroups: bool
    routes: tuple[tuple[IPv4Network, str], ...]


def check(needs: Needs, instance: Instance | None = None) -> None:
    """Raise PreflightError naming everything that stands in the way."""
    found = problems(observe(), needs, instance)
    if found:
        raise PreflightError(f"This machine cannot {needs.task}:" + "".join(f"\n  - {problem}" for problem in found))


def problems(machine: Machine, needs: Needs, instance: Instance | None = None) -> list[str]:
    if (machine.system, machine.architecture) != ("Linux", "x86_64"):
        return [f"It needs Linux on x86_64; this is {machine.system} on {machine.architecture}."]
    if machine.user_id:
        return ["It needs root: start it with sudo, or as root."]
    found = []
    if not machine.may_mount:
        found.append("Root may not mount here: start the container with --privileged, or use the machine itself.")
    if machine.memory < needs.memory_gib * _GIB:
        found.append(
            f"It takes {needs.memory_gib:.0f} GiB of memory and this machine has {machine.memory / _GIB:.1f}: "
            "use a larger one."
        )
    if machine.disk < needs.disk_gib * _GIB:
        found.append(
            f"It takes {needs.disk_gib:.0f} GiB of free disk at {machine.cache}; there are {machine.disk / _GIB:.1f}: "
            "free some, or set QWENVL_CACHE to a folder on another disk."
        )
    if machine.cache_filesystem in {"overlay", "tmpfs", "nfs", "nfs4"} or _is_overlaid(machine.cache):
        found.append(
            f"Containers cannot keep their layers at {machine.cache} ({machine.cache_filesystem}): "
            f"set QWENVL_CACHE to a folder on a local disk that is not below {' or '.join(OVERLAID)}."
        )
    if not machine.has_cgroups:
        found.append("No cgroups are mounted at /sys/fs/cgroup: mount them, or give them to the container.")
    return found + (_network_problems(machine, instance) if instance else [])


def _network_problems(machine: Machine, instance: Instance) -> list[str]:
    wanted = IPv4Network(instance.network)
    return [
        f"The node {instance.name} wants the network {wanted}; {interface} has {network}: give the node another name."
        for network, interface in machine.routes
        if network.overlaps(wanted) and interface != instance.interface
    ]


def _is_overlaid(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in OVERLAID)


def observe() -> Machine:
    cache = cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return Machine(
        system=platform.system(),
        architecture=platform.machine(),
        user_id=os.geteuid(),
        may_mount=may_mount(Path("/proc/self/status").read_text()),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk=shutil.disk_usage(existing).free,
        cache=cache,
        cache_filesystem=filesystem(existing, Path("/proc/mounts").read_text()),
        has_cgroups=any(Path("/sys/fs/cgroup").glob("*")),
        routes=tuple(routes(Path("/proc/net/route").read_text())),
    )


def may_mount(status: str) -> bool:
    """From the text of /proc/self/status."""
    for line in status.splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_ADMIN & 1)
    return False


def filesystem(path: Path, mounts: str) -> str:
    """The type of the file system that a path is on, from the text of /proc/mounts."""
    rows = [line.split() for line in mounts.splitlines()]
    over = [(len(row[1]), at, row[2]) for at, row in enumerate(rows) if path.is_relative_to(row[1])]
    return max(over)[2] if over else ""


def routes(table: str) -> list[tuple[IPv4Network, str]]:
    """The networks of /proc/net/route, without the default route, each with its interface."""
    found = []
    for row in (line.split() for line in table.splitlines()[1:]):
        destination, mask = (bytes.fromhex(row[column])[::-1] for column in (1, 7))
        if any(mask):
            length = int.from_bytes(mask).bit_count()
            found.append((IPv4Network((int.from_bytes(destination), length)), row[0]))
    return found
