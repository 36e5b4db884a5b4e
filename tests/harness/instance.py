"""What a node instance is called and where it lives: all of it follows from its name, so that it can be found."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from harness.cache import cache_folder
from harness.errors import HarnessError

_NAME = re.compile(r"[a-z][a-z0-9]{0,10}")


class InstanceNameError(HarnessError):
    """An instance's name cannot be used."""


@dataclass(frozen=True)
class Instance:
    """One node: its network is 10.N.0.0/16; its interface, cgroup, folder and processes bear its name."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InstanceNameError(
                f"{self.name!r}: an instance's name is 1 to 11 small letters and digits, a letter first"
            )

    @property
    def prefix(self) -> str:
        known = {"demo": 200, "test": 201}
        return f"10.{known.get(self.name) or 202 + zlib.crc32(self.name.encode()) % 50}"

    @property
    def network(self) -> str:
        return f"{self.prefix}.0.0/16"

    @property
    def pod_network(self) -> str:
        return f"{self.prefix}.0.0/24"

    @property
    def service_network(self) -> str:
        return f"{self.prefix}.128.0/20"

    @property
    def kubernetes_service(self) -> str:
        return f"{self.prefix}.128.1"

    @property
    def host_address(self) -> str:
        """The host's end of the link to the node; pods reach the host by it."""
        return f"{self.prefix}.255.1"

    @property
    def node_address(self) -> str:
        return f"{self.prefix}.255.2"

    @property
    def server(self) -> str:
        return f"https://{self.node_address}:6443"

    @property
    def interface(self) -> str:
        return f"qvl-{self.name}"

    @property
    def node_name(self) -> str:
        return f"qwenvl-{self.name}"

    @property
    def cgroup(self) -> str:
        return f"qwenvl-{self.name}"

    @property
    def state(self) -> Path:
        return cache_folder() / "nodes" / self.name

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"
