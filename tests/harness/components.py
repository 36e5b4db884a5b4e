"""The command lines and configuration files of Kubernetes' parts: pure, given one cluster's addresses and folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.instance import Instance

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def audit_policy(user: str = "") -> dict[str, Any]:
    """What is recorded without bodies: one user's requests, or everybody's if none is named."""
    rules = [{"level": "Metadata", "users": [user]}, {"level": "None"}] if user else [{"level": "Metadata"}]
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"], "rules": rules}


@dataclass(frozen=True)
class ControlPlane:
    """Where etcd and the apiserver of one cluster keep their files and listen."""

    state: Path
    address: str
    port: int
    service_network: str
    has_nodes: bool

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def etcd_socket(self) -> Path:
        return self.state / "etcd.sock"

    @property
    def audit_log(self) -> Path:
        return self.state / "audit.log"


def etcd(plane: ControlPlane, binary: Path) -> list[str]:
    # A test's cluster does not outlive its machine: nothing waits for the disk.
    return [
        str(binary), "--name=default", f"--data-dir={plane.state / 'etcd'}", "--unsafe-no-fsync",
        f"--listen-client-urls=unix://{plane.etcd_socket}",
        # It has no peers and is not looked for: any free port will do.
        "--advertise-client-urls=http://127.0.0.1:0",
        "--listen-peer-urls=http://127.0.0.1:0", "--initial-advertise-peer-urls=http://127.0.0.1:0",
        "--initial-cluster=default=http://127.0.0.1:0",
        "--log-level=warn",
    ]  # fmt: skip


def apiserver(plane: ControlPlane, binary: Path) -> list[str]:
    pki = plane.pki
    flags = [
        str(binary), f"--etcd-servers=unix://{plane.etcd_socket}",
        f"--bind-address={plane.address}", f"--secure-port={plane.port}", f"--advertise-address={plane.address}",
        f"--service-cluster-ip-range={plane.service_network}",
        f"--tls-cert-file={pki}/apiserver.crt", f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt", "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
        # Policies that change what is written stand for mutating webhooks, without a server.
        "--feature-gates=MutatingAdmissionPolicy=true", "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={pki}/accounts.pub", f"--service-account-signing-key-file={pki}/accounts.key",
        f"--audit-policy-file={plane.state / 'audit-policy.json'}", f"--audit-log-path={plane.audit_log}",
    ]  # fmt: skip
    if plane.has_nodes:
        return [
            *flags, f"--kubelet-client-certificate={pki}/admin.crt", f"--kubelet-client-key={pki}/admin.key",
            "--kubelet-preferred-address-types=InternalIP",
        ]  # fmt: skip
    # A loopback address may not stand in the endpoints of the `kubernetes` Service.
    return [*flags, "--endpoint-reconciler-type=none"]


def controller_manager(plane: ControlPlane, binary: Path) -> list[str]:
    return [
        str(binary), f"--kubeconfig={plane.state / 'controller-manager.kubeconfig'}",
        f"--root-ca-file={plane.pki}/ca.crt", f"--service-account-private-key-file={plane.pki}/accounts.key",
        "--use-service-account-credentials", "--leader-elect=false", "--secure-port=0",
        # A test waits until a silent node is given up.
        "--node-monitor-grace-period=20s",
        # It would make the default one, in the host's /usr.
        f"--flex-volume-plugin-dir={plane.state / 'volume-plugins'}",
    ]  # fmt: skip


def scheduler(state: Path, binary: Path) -> list[str]:
    return [
        str(binary), f"--kubeconfig={state / 'scheduler.kubeconfig'}",
        "--leader-elect=false", "--secure-port=0",
    ]  # fmt: skip


def kubelet(instance: Instance, binary: Path) -> list[str]:
    state = instance.state
    return [
        str(binary), f"--config={state / 'kubelet.json'}", f"--kubeconfig={state / 'kubelet.kubeconfig'}",
        f"--root-dir={state / 'kubelet'}", f"--hostname-override={instance.node_name}",
        f"--node-ip={instance.node_address}",
    ]  # fmt: skip


def kubelet_configuration(instance: Instance) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": str(instance.state / "pki" / "ca.crt")}},
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{instance.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        "volumePluginDir": str(instance.state / "kubelet" / "volume-plugins"),
        "resolvConf": str(instance.state / "resolv.conf"),
        # Nothing answers there, and says so at once: a pod that looks a name up fails fast instead of waiting.
        "clusterDNS": [instance.node_address],
        # The disk is the developer's, not the node's own: neither evict pods nor remove images because it is full.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "0%", "imagefs.available": "0%"},
        "imageGCHighThresholdPercent": 100,
        # Renewed every two seconds, so that a busy machine's node is not given up.
        "nodeLeaseDurationSeconds": 8,
        # Tests kill containers many times in a row and wait for each to come back.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
    }


def proxy(state: Path, binary: Path) -> list[str]:
    return [str(binary), f"--config={state / 'proxy.json'}"]


def proxy_configuration(instance: Instance) -> dict[str, Any]:
    unchanged = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(instance.state / "proxy.kubeconfig")},
        "hostnameOverride": instance.node_name,
        "mode": "nftables",
        "clusterCIDR": instance.pod_network,
        "conntrack": unchanged,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
