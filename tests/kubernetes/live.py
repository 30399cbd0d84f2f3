"""A laboratory's API server that is a real one: its objects are created under generated names and removed at the end.

The server is reached through a relay into the laboratory, so that its nodes need no way out.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.kubernetes.serve import PORT, listen_in

from fairway_core.keys import BY_NAME, Kind
from fairway_store.kubernetes.access import Pem, from_kubeconfig

MERGE = "application/merge-patch+json"
LABEL = "fairway.dev/laboratory"
SECONDS = 10.0
SERVICES = ["10.96.0.0/16", "fd00:10:96::/112"]
"""Where the server does not say its service ranges (before 1.33)."""
IMAGE = "registry.k8s.io/pause:3.10"


class LiveServer:
    """Has the face of `ServedDouble` that laboratories use. Namespace `shop` becomes `namespace`, a node NAMESPACE-NODE."""

    def __init__(self, kubeconfig: Path, relay_namespace: Path, address: str) -> None:
        self._access = from_kubeconfig(kubeconfig)
        self._relay = Relay(relay_namespace, self._access.servers[0])
        self._address = address
        self._made: list[tuple[Kind, str, str]] = []
        self.namespace = f"fairway-{os.getpid()}-{int(time.time()) % 100000}"
        self.service_cidrs = self._service_cidrs()

    def node(self, name: str) -> str:
        """What a laboratory's node is called in the cluster."""
        return f"{self.namespace}-{name}"

    def start(self) -> None:
        """Make the namespace, and let the laboratory in."""
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        self._relay.start()

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Create objects, or merge into them; the status is written on its own, as kubelets and controllers do."""
        for given in documents:
            document = self._localized(json.loads(json.dumps(given)))
            kind, meta = BY_NAME[document["kind"]], document["metadata"]
            status, namespace = document.pop("status", None), meta.get("namespace", "")
            code, answer = self.call("POST", _path(kind, namespace), document)
            if code == 201:
                self._made.append((kind, namespace, meta["name"]))
            elif code == 409:
                if kind.name == "Pod":
                    # Hardly anything of its spec may change.
                    document = {"metadata": meta}
                code, answer = self.call("PATCH", _path(kind, namespace, meta["name"]), document)
            assert code in (200, 201), answer
            if status:
                code, answer = self.call("PATCH", _path(kind, namespace, meta["name"]) + "/status", {"status": status})
                assert code == 200, answer

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Remove, without waiting for anybody to agree."""
        where = self.namespace if namespace == "shop" else namespace
        self._remove(BY_NAME[kind], where, self.node(name) if kind == "Node" else name)

    def find(self, kind: str, name: str) -> dict[str, Any]:
        """An object of ours as the server has it."""
        wanted = ("", self.node(name)) if kind == "Node" else (self.namespace, name)
        code, answer = self.call("GET", _path(BY_NAME[kind], ""))
        assert code == 200, answer
        metas = ((item["metadata"], item) for item in answer["items"])
        return next(item for meta, item in metas if (meta.get("namespace", ""), meta["name"]) == wanted)

    def kubeconfig(self, path: Path) -> Path:
        """The same credentials, by way of the relay."""
        at, access = urlsplit(self._access.servers[0]), self._access
        server = {"server": f"{at.scheme}://{self._address}:{PORT}", "insecure-skip-tls-verify": access.insecure}
        server |= {"tls-server-name": access.server_name or at.hostname} if at.scheme == "https" else {}
        server |= _pem("certificate-authority", access.ca)
        user = {"token": access.bearer()} | _pem("client-certificate", access.certificate) | _pem("client-key", access.key)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "node"}}],
            "clusters": [{"name": "lab", "cluster": server}],
            "users": [{"name": "node", "user": {name: value for name, value in user.items() if value}}],
        }
        path.touch(0o600)
        path.write_text(json.dumps(document))
        return path

    def close(self) -> None:
        """Remove every object that was made, newest first."""
        self._relay.close()
        for kind, namespace, name in reversed(self._made):
            self._remove(kind, namespace, name)

    def call(self, method: str, path: str, document: Any = None) -> tuple[int, dict[str, Any]]:
        """Status and body of one request."""
        headers = {"Content-Type": MERGE if method == "PATCH" else "application/json"}
        if token := self._access.bearer():
            headers["Authorization"] = f"Bearer {token}"
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(self._access.servers[0] + path, data, headers, method=method)
        secure: ssl.SSLContext | None = self._access.tls() if request.type == "https" else None
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=secure) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as fault:
            text = fault.read().decode(errors="replace")
            return fault.code, {"message": text}

    def _remove(self, kind: Kind, namespace: str, name: str) -> None:
        at_once = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0} if kind.name == "Pod" else None
        code, answer = self.call("DELETE", _path(kind, namespace, name), at_once)
        assert code in (200, 202, 404), answer

    def _service_cidrs(self) -> list[str]:
        code, answer = self.call("GET", "/apis/networking.k8s.io/v1/servicecidrs")
        found = [cidr for item in answer.get("items", ()) for cidr in item["spec"]["cidrs"]] if code == 200 else []
        return found or SERVICES

    def _localized(self, document: dict[str, Any]) -> dict[str, Any]:
        """Generated names, and what a server insists on."""
        meta, spec = document["metadata"], document.get("spec", {})
        meta.pop("uid", None)
        meta["labels"] = {**meta.get("labels", {}), LABEL: self.namespace}
        if meta.get("namespace") == "shop":
            meta["namespace"] = self.namespace
        if document["kind"] == "Node":
            meta["name"] = self.node(meta["name"])
        if document["kind"] == "Pod":
            spec["nodeName"] = self.node(spec["nodeName"])
            spec["containers"] = [{**item, "image": IMAGE} for item in spec["containers"]]
            spec |= {"automountServiceAccountToken": False}
        if document["kind"] == "Service" and spec.get("clusterIP") != "None":
            document["spec"] = {name: value for name, value in spec.items() if not name.startswith("clusterIP")}
            document["spec"]["ipFamilyPolicy"] = "PreferDualStack"
        for endpoint in document.get("endpoints", ()):
            endpoint["nodeName"] = self.node(endpoint["nodeName"])
            endpoint["targetRef"]["namespace"] = self.namespace
        return document


class Relay:
    """Carries connections made to a port inside a namespace to the server outside."""

    def __init__(self, namespace: Path, server: str) -> None:
        at = urlsplit(server)
        self._to = at.hostname or "", at.port or (443 if at.scheme == "https" else 80)
        self._namespace = namespace
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join(5)

    async def _serve(self) -> None:
        listener = await listen_in(self._namespace, self._ended.is_set)
        if listener is None:
            return
        server = await asyncio.start_server(self._carry, sock=listener)
        while not self._ended.is_set():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        server.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            there, back = await asyncio.open_connection(*self._to)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()


def _path(kind: Kind, namespace: str, name: str = "") -> str:
    middle = f"/namespaces/{namespace}" if namespace else ""
    root = "apis" if "/" in kind.api_version else "api"
    return f"/{root}/{kind.api_version}{middle}/{kind.plural}" + (f"/{name}" if name else "")


def _pem(field: str, pem: Pem | None) -> dict[str, str]:
    if pem is None:
        return {}
    return {field: str(pem.resolve())} if isinstance(pem, Path) else {f"{field}-data": base64.b64encode(pem).decode()}
