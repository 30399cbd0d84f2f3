"""A cluster in a laboratory: nodes on one link, each with an agent, on one API server; a client outside; objects for them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kubernetes.live import LiveServer
from tests.kubernetes.serve import ServedDouble
from tests.lab.system import eventually

from fairway_netlab.control import call
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Outcome, Target

LINK = {4: "192.168.90.{}", 6: "fd00:90::{}"}
SUBNETS = ["192.168.90.0/24", "fd00:90::/64"]
PODS = {4: "10.244.{}.0/24", 6: "fd00:10:24{}::/64"}
SERVICES = ["10.96.0.0/16", "fd00:10:96::/112"]
CLIENT = {"name": "client", "serve": [{"port": 9000}]}
READY = {"ready": True, "serving": True, "terminating": False}
Server = ServedDouble | LiveServer
_serial = itertools.count()


@dataclass(frozen=True)
class PodSpec:
    """A pod: where it runs, its label `app`, the port it answers on."""

    name: str
    node: int
    app: str
    port: int = 8080
    namespace: str = "shop"


@dataclass
class Cluster:
    """`size` nodes n1, n2 …; hosts `api` (the server) and `client`."""

    lab: Lab
    server: Server

    def routes(self, node: str) -> dict[str, str]:
        """Routes to other nodes' pods: network to gateway."""
        found: list[dict[str, Any]] = []
        for family in "46":
            shown = self.lab.exec(node, ["ip", "-j", f"-{family}", "route", "show", "proto", "157"], check=True).stdout
            found += json.loads(shown or "[]")
        return {item["dst"]: item["gateway"] for item in found if "gateway" in item}

    def status(self, node: str) -> dict[str, Any]:
        """What `fairway status` shows there."""
        return call(self.lab.node(node).socket, "GET", "/v1/status")

    def problems(self, node: str) -> list[str]:
        return [str(text) for text in self.status(node)["problems"]]

    def knows(self, node: str, plural: str, *names: str) -> int:
        """The revision at which these objects are in a node's store; 0 until they are."""
        found = call(self.lab.node(node).socket, "GET", f"/v1/objects/{plural}")
        here = {item["metadata"]["name"] for item in found["items"]}
        return int(found["revision"]) if here >= set(names) else 0

    def report(self, *pods: PodSpec, ready: bool = True) -> None:
        """What kubelets write when containers run: other nodes learn addresses from there."""
        for pod in pods:
            ips = [{"ip": ip} for ip in self.lab.addresses(pod.name)]
            conditions = [{"type": "Ready", "status": str(ready)}]
            self.server.put({**pod_of(pod), "status": {"phase": "Running", "podIPs": ips, "conditions": conditions}})

    def publish(self, service: str, *pods: str, **spec: Any) -> None:
        """A Service with endpoints on these pods, known and live everywhere."""
        self.server.put(service_of(service, **spec), *self.slices(service, *pods))
        for node in self.lab.plan.nodes:
            eventually(lambda node=node: self.live(node.name, service), f"{service} is live at {node.name}")

    def live(self, node: str, service: str) -> bool:
        """Whether the rules are those of a Service and its EndpointSlices as the store, which is ahead of them, has these.

        Each kind comes by a watch of its own. Names follow.
        """
        parts = self.knows(node, "services", service), self.knows(node, "endpointslices", f"{service}-4", f"{service}-6")
        return all(parts) and bool(self.status(node)["live"]["nft"] >= max(parts))

    def slices(self, service: str, *pods: str, **changes: Any) -> Iterator[dict[str, Any]]:
        """The EndpointSlices a controller would write; `changes` are put over each endpoint."""
        labels = {"kubernetes.io/service-name": service}
        for family in (4, 6):
            yield {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{service}-{family}", "namespace": "shop", "labels": labels},
                "addressType": f"IPv{family}",
                "endpoints": [self._endpoint(pod, family, changes) for pod in pods],
                "ports": [{"name": name.lower(), "port": 8080, "protocol": name} for name in ("TCP", "UDP")],
            }

    def _endpoint(self, pod: str, family: int, changes: Mapping[str, Any]) -> dict[str, Any]:
        target = {"kind": "Pod", "name": pod, "namespace": "shop"}
        at = {"addresses": [self.lab.address(pod, family)], "nodeName": self.lab.station(pod).node, "hostname": pod}
        return {**at, "conditions": READY, "targetRef": target, **changes}

    def ask(self, source: str, host: str, port: int, protocol: Any = "TCP", count: int = 1) -> list[Outcome]:
        """Some tries at once."""
        return self.lab.probe(source, [Target(host, port, protocol)] * count, timeout=1.0)


@contextmanager
def cluster(
    make: Callable[[dict[str, Any]], Lab],
    directory: Path,
    pods: Sequence[PodSpec],
    size: int = 2,
    modes: Sequence[str] = ("bridge", "routed"),
    config: Mapping[str, Any] | None = None,
    objects: Sequence[Mapping[str, Any]] = (),
    serve: Callable[[Path, str], Server] = ServedDouble,
) -> Iterator[Cluster]:
    """Build it: nodes take their podCIDRs from their Node objects, and wire as `modes` say, by turns.

    `serve` makes the API server that listens in a namespace, at an address there.
    """
    name = f"k8c{os.getpid()}-{next(_serial)}"
    address = LINK[4].format(size + 1)
    server = serve(Path(f"/run/netns/fwlab-{name}.api"), address)
    store = {"kind": "kubernetes", "kubeconfig": str(server.kubeconfig(directory / f"{name}.kubeconfig"))}
    settings = {"store": store, "cluster": {"serviceCIDRs": list(server.service_cidrs)}, **(config or {})}
    nodes = [
        {"name": node, "podCIDRs": [], "mode": mode, "config": {"node": {"name": server.node(node)}, **settings}}
        for node, mode in zip((f"n{number + 1}" for number in range(size)), itertools.cycle(modes), strict=False)
    ]
    link = {"nodes": [node["name"] for node in nodes], "hosts": ["api", "client"], "subnets": SUBNETS, "routes": False}
    topology = {"name": name, "nodes": nodes, "hosts": [{"name": "api"}, CLIENT], "links": [link]}
    server.start()
    try:
        server.put(*(node_of(f"n{number}", number) for number in range(1, size + 1)), *map(pod_of, pods), *objects)
        guests = [container_of(pod, server.namespace) for pod in pods]
        made = Cluster(make({**topology, "containers": guests}), server)
        made.report(*pods)
        yield made
    finally:
        server.close()


def container_of(pod: PodSpec, shop: str = "shop") -> dict[str, Any]:
    """Its container; `shop` is what that namespace is called here."""
    namespace = shop if pod.namespace == "shop" else pod.namespace
    serve = [{"protocol": protocol, "port": pod.port} for protocol in ("TCP", "UDP")]
    return {"name": pod.name, "namespace": namespace, "node": f"n{pod.node}", "serve": serve}


def node_of(name: str, number: int, **meta: Any) -> dict[str, Any]:
    """A Node with its addresses on the link and a pod range per family."""
    cidrs = [PODS[family].format(number) for family in (4, 6)]
    addresses = [{"type": "InternalIP", "address": LINK[family].format(number)} for family in (4, 6)]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, **meta},
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": [*addresses, {"type": "Hostname", "address": name}]},
    }


def pod_of(pod: PodSpec) -> dict[str, Any]:
    meta = {"name": pod.name, "namespace": pod.namespace, "labels": {"app": pod.app}, "uid": f"uid-{pod.name}"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": f"n{pod.node}", "containers": [{"name": "c"}]},
    }


def service_of(name: str, port: int = 80, ips: Sequence[str] = (), **spec: Any) -> dict[str, Any]:
    """A dual-stack Service over TCP and UDP; the cluster's own allocation is played by `ips`. `None` makes it headless."""
    given = list(ips) or ["None"]
    node_port = spec.pop("nodePort", 0)
    ports = [
        {"name": p.lower(), "protocol": p, "port": port, "targetPort": 8080, **({"nodePort": node_port} if node_port else {})}
        for p in ("TCP", "UDP")
    ]
    kind = {"type": "NodePort"} if node_port else {}
    spec = {"clusterIP": given[0], "clusterIPs": given, "selector": {"app": name}, "ports": ports, **kind, **spec}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}
