"""The certificates of one cluster's parts, signed by an authority that lives and ends with the cluster."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path

from harness.commands import run

_DAYS = "3650"


@dataclass(frozen=True)
class Authority:
    """A folder with ca.crt and ca.key; each certificate lies beside them as NAME.crt and NAME.key."""

    folder: Path

    @classmethod
    def create(cls, folder: Path) -> "Authority":
        folder.mkdir(parents=True, mode=0o700)
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", folder / "ca.key", "-out", folder / "ca.crt", "-days", _DAYS, "-subj", "/CN=qwenvl-harness",
            "-addext", "keyUsage=critical,keyCertSign,digitalSignature",
        )  # fmt: skip
        return cls(folder)

    def issue(self, name: str, subject: str, addresses: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> None:
        """`subject` as openssl writes it: /O=group/CN=user."""
        key, request, extensions = (self.folder / f"{name}.{end}" for end in ("key", "csr", "ext"))
        run(
            "openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-out", request, "-subj", subject,
        )  # fmt: skip
        alternatives = [f"IP:{address}" for address in addresses] + [f"DNS:{name}" for name in names]
        usage = "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
        extensions.write_text(usage + (f"subjectAltName={','.join(alternatives)}\n" if alternatives else ""))
        run(
            "openssl", "x509", "-req", "-in", request, "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key",
            "-CAcreateserial", "-out", self.folder / f"{name}.crt", "-days", _DAYS, "-extfile", extensions,
        )  # fmt: skip

    def issue_key_pair(self, name: str) -> None:
        """A bare key pair, NAME.key and NAME.pub: what service account tokens are signed with."""
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.folder / f"{name}.key")
        run("openssl", "ec", "-in", self.folder / f"{name}.key", "-pubout", "-out", self.folder / f"{name}.pub")

    def kubeconfig(self, name: str, server: str) -> str:
        """Whole in itself, so that it can be copied."""
        cluster = {"server": server, "certificate-authority-data": self._encoded("ca.crt")}
        user = {
            "client-certificate-data": self._encoded(f"{name}.crt"),
            "client-key-data": self._encoded(f"{name}.key"),
        }
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "qwenvl", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "qwenvl", "context": {"cluster": "qwenvl", "user": name}}],
            "current-context": "qwenvl",
        }
        return json.dumps(config, indent=1)

    def _encoded(self, file: str) -> str:
        return base64.b64encode((self.folder / file).read_bytes()).decode()
