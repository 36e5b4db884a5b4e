"""The programs a node is made of: built once from binaries/go.mod into the cache, or taken from Debian's packages."""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.cache import cache_folder, content_key, files_key, locked
from harness.commands import CommandError, run
from harness.errors import HarnessError
from harness.progress import say, step

MODULE = Path(__file__).parent / "binaries"
HELM = "helm.sh/helm/v3/cmd/helm@v3.22.0"
KUBERNETES = "k8s.io/kubernetes"


class MissingToolError(HarnessError):
    """A program is needed that cannot be made here; the message says how to get it."""


@dataclass(frozen=True)
class GoTool:
    package: str
    usually: str


GO_TOOLS = {
    "etcd": GoTool("go.etcd.io/etcd/server/v3", "15 s, the first time 1 min"),
    "kube-apiserver": GoTool(f"{KUBERNETES}/cmd/kube-apiserver", "30 s, the first time 7 min"),
    "kubectl": GoTool(f"{KUBERNETES}/cmd/kubectl", "15 s, the first time 1 min"),
    "kube-controller-manager": GoTool(f"{KUBERNETES}/cmd/kube-controller-manager", "30 s, the first time 2 min"),
    "kube-scheduler": GoTool(f"{KUBERNETES}/cmd/kube-scheduler", "15 s, the first time 1 min"),
    "kubelet": GoTool(f"{KUBERNETES}/cmd/kubelet", "30 s, the first time 2 min"),
    "kube-proxy": GoTool(f"{KUBERNETES}/cmd/kube-proxy", "15 s, the first time 1 min"),
    "pause": GoTool("./pause", "2 s"),
    "helm": GoTool(HELM, "30 s, the first time 2 min"),
}

# What answers to a command's name, and Debian's package that brings it.
DEBIAN = {
    "buildah": "buildah",
    "containerd": "containerd",
    "ctr": "containerd",
    "debootstrap": "debootstrap",
    "ip": "iproute2",
    "nft": "nftables",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "ptp": "containernetworking-plugins",
    "runc": "runc",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "unshare": "util-linux",
}
_GO = (1, 26)
_GO_ADVICE = (
    "It is needed to build Kubernetes' own programs: install Go 1.26 or newer from https://go.dev/dl into "
    "/usr/local/go (Debian 12's golang package is too old)."
)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/cni:/opt/cni/bin"


def kubernetes_version() -> str:
    for line in (MODULE / "go.mod").read_text().splitlines():
        match line.split():
            case [name, version, *_] if name == KUBERNETES:
                return version
    raise MissingToolError(f"{MODULE / 'go.mod'} requires no {KUBERNETES}")


def tools_folder() -> Path:
    sources = files_key([MODULE / "go.mod", MODULE / "go.sum", MODULE / "pause"], MODULE)
    return cache_folder() / "tools" / f"{kubernetes_version()}-{content_key(sources, HELM)}"


def ready_made(name: str) -> Path | None:
    """The tool as it lies in KUBEBUILDER_ASSETS or in the cache."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    candidates = [Path(assets) / name] if assets and name in {"etcd", "kube-apiserver"} else []
    for path in [*candidates, tools_folder() / name]:
        if os.access(path, os.X_OK):
            return path
    return None


def tool(name: str) -> Path:
    """One tool, built now if it has to be."""
    return ready_made(name) or build([name])[name]


def build(names: Iterable[str] = tuple(GO_TOOLS)) -> dict[str, Path]:
    with locked(cache_folder() / "tools" / "lock"):
        for name in names:
            if ready_made(name) is None:
                with step(f"Building {name}", GO_TOOLS[name].usually):
                    _build(name, tools_folder())
    return {name: ready_made(name) or tools_folder() / name for name in names}


def _build(name: str, folder: Path) -> None:
    # Built under another name and moved: what has the tool's name is whole.
    unfinished = folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    package = GO_TOOLS[name].package
    environment = {"CGO_ENABLED": "0", "GOBIN": str(unfinished), "GOFLAGS": "-buildvcs=false"}
    flags = ["-trimpath", "-ldflags", f"-s -w {_stamp(kubernetes_version())}"]
    if "@" in package:
        run(find_go(), "install", *flags, package, env=environment, cwd=unfinished)
    else:
        run(find_go(), "build", *flags, "-o", unfinished / name, package, env=environment, cwd=MODULE)
    (unfinished / name).rename(folder / name)
    unfinished.rmdir()


def _stamp(version: str) -> str:
    major, minor, _ = version.removeprefix("v").split(".")
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in values.items())


def find_go() -> str:
    found = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if found is None:
        raise MissingToolError(f"Go is not on PATH nor in /usr/local/go/bin. {_GO_ADVICE}")
    version, toolchain, *_ = [*run(found, "env", "GOVERSION", "GOTOOLCHAIN").split(), ""]
    if not go_suffices(version, toolchain):
        raise MissingToolError(f"{found} is {version}, which is too old. {_GO_ADVICE}")
    return found


def go_suffices(version: str, toolchain: str) -> bool:
    """New enough by itself, or able to fetch a Go that is: from 1.21 on it can, unless it is told to be `local`."""
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return release >= _GO or (release >= (1, 21) and toolchain != "local")


def find_system(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}")


def install_packages(commands: Mapping[str, str] = DEBIAN) -> None:
    """Install Debian's packages for the commands that this machine lacks."""
    packages = sorted({package for command, package in commands.items() if find_system(command) is None})
    if not packages:
        return
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise MissingToolError(f"This system has no apt-get. Install what Debian calls: {wanted}")
    if os.geteuid():
        raise MissingToolError(
            f"Installing packages needs root: run `sudo apt-get install {wanted}` or start again as root."
        )
    # At runlevel 1 Debian's packages leave their services stopped: the node starts its own containerd.
    environment = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    command = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    with step(f"Installing Debian packages: {wanted}", "1 min"):
        try:
            run(*command, env=environment)
        except CommandError:
            say("    apt's package lists are old or absent: fetching them")
            run("apt-get", "update")
            run(*command, env=environment)
