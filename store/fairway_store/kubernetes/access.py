"""Who we are to the API server and how we know it is the right one: kubeconfig or in-cluster service account.

Source: Kubernetes documentation "Organizing Cluster Access Using kubeconfig Files" and "Accessing the API from within a Pod".
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairway_core.documents.yamlload import parse
from fairway_core.errors import Place, UserError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Pem = bytes | Path
"""A certificate or key: its text, or the file that has it (and may get a newer one)."""


@dataclass(frozen=True, slots=True)
class Access:
    """Everything needed to talk to one cluster. `source` says where it is written down, for messages.

    With `ca` only certificates signed by it are accepted; without, those the machine trusts. `servers` are tried in order.
    """

    servers: tuple[str, ...]
    source: str
    ca: Pem | None = None
    token: str = ""
    token_file: Path | None = None
    certificate: Pem | None = None
    key: Pem | None = None
    server_name: str = ""
    insecure: bool = False

    def bearer(self) -> str:
        """The token to present now, empty for none. The file is read each time: kubelet replaces it before it ends.

        Raises OSError if the file cannot be read.
        """
        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return self.token

    def tls(self) -> ssl.SSLContext:
        """A context with the certificates as they are now. Raises UserError if one cannot be used."""
        try:
            context = ssl.create_default_context(
                cafile=str(self.ca) if isinstance(self.ca, Path) else None,
                cadata=self.ca.decode() if isinstance(self.ca, bytes) else None,
            )
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate is not None:
                _load_client(context, self.certificate, self.key)
        except (OSError, ValueError) as fault:
            raise UserError(f"certificates cannot be used: {fault}", Place(self.source)) from fault
        return context


def _load_client(context: ssl.SSLContext, certificate: Pem, key: Pem | None) -> None:
    """OpenSSL reads client certificates from files only; data goes through a directory that nobody else can enter."""
    with tempfile.TemporaryDirectory(prefix="fairway-") as directory:
        paths = [_as_file(Path(directory) / str(number), pem) for number, pem in enumerate((certificate, key))]
        context.load_cert_chain(str(paths[0]), str(paths[1]) if paths[1] else None)


def _as_file(path: Path, pem: Pem | None) -> Path | None:
    if isinstance(pem, bytes):
        path.touch(0o600)
        path.write_bytes(pem)
        return path
    return pem


def with_servers(access: Access, servers: Sequence[str]) -> Access:
    """The same credentials at other addresses of the cluster; no servers: unchanged. Raises UserError for what is no URL."""
    for server in servers:
        if not server.startswith(("https://", "http://")):
            raise UserError(f"{server!r} is not the URL of an API server (https://HOST:PORT)")
    return replace(access, servers=tuple(server.rstrip("/") for server in servers)) if servers else access


def in_cluster(directory: Path = SERVICE_ACCOUNT, environment: Mapping[str, str] = os.environ) -> Access:
    """The service account of the pod we run in. Raises UserError outside of a cluster."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (directory / "token").exists():
        raise UserError(f"no kubeconfig is given and this is no pod with a service account ({directory}/token)")
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    return Access((url,), str(directory), ca=directory / "ca.crt", token_file=directory / "token")


def from_kubeconfig(path: Path, context: str = "") -> Access:
    """The cluster and user of one context, the current one by default. Raises UserError naming the file and the fault.

    Relative paths start at the file's directory. Credential plugins (exec, auth-provider) and passwords are refused.
    """
    try:
        documents = parse(str(path), path.read_text())
    except (OSError, UnicodeDecodeError) as fault:
        raise UserError(f"cannot be read: {fault}", Place(str(path))) from fault
    document = documents[0].value if documents else None
    if not isinstance(document, dict):
        raise UserError("is not a kubeconfig", Place(str(path)))
    name = context or document.get("current-context") or ""
    chosen = _named(path, document, "contexts", name, "context")
    cluster = _named(path, document, "clusters", str(chosen.get("cluster") or ""), "cluster")
    user = _named(path, document, "users", str(chosen["user"]), "user") if chosen.get("user") else {}
    return _access(path, cluster, user)


def _access(path: Path, cluster: Mapping[str, Any], user: Mapping[str, Any]) -> Access:
    for refused in ("exec", "auth-provider", "username"):
        if user.get(refused):
            raise UserError(f"users.user.{refused} is not supported; use a token or client certificate", Place(str(path)))
    server = cluster.get("server")
    if not isinstance(server, str) or not server.startswith(("https://", "http://")):
        raise UserError(f"clusters.cluster.server is {server!r}, not a URL", Place(str(path)))
    return Access(
        servers=(server.rstrip("/"),),
        source=str(path),
        ca=_pem(path, cluster, "certificate-authority"),
        # A file wins over a token, as in client-go: the file is the one that is renewed.
        token=str(user.get("token") or ""),
        token_file=path.parent / str(user["tokenFile"]) if user.get("tokenFile") else None,
        certificate=_pem(path, user, "client-certificate"),
        key=_pem(path, user, "client-key"),
        server_name=str(cluster.get("tls-server-name") or ""),
        insecure=bool(cluster.get("insecure-skip-tls-verify")),
    )


def _named(path: Path, document: Mapping[str, Any], field: str, name: str, part: str) -> Mapping[str, Any]:
    for item in document.get(field) or ():
        if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(part), dict):
            found: Mapping[str, Any] = item[part]
            return found
    raise UserError(f"{field}: there is no {part} named {name!r}", Place(str(path)))


def _pem(path: Path, section: Mapping[str, Any], field: str) -> Pem | None:
    """Data wins over a file, as in client-go."""
    data = section.get(f"{field}-data")
    if data:
        try:
            return base64.b64decode(str(data), validate=True)
        except binascii.Error as fault:
            raise UserError(f"{field}-data is not base64: {fault}", Place(str(path))) from fault
    return path.parent / str(section[field]) if section.get(field) else None
