"""What clusters expect of Services, one behaviour each, with packets: two nodes, pods on both, a client outside.

docs/kubernetes-conformance.md says which behaviour of the cluster's own test suite each of these stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import LINK, READY, Cluster, PodSpec, cluster, pod_of, service_of
from tests.lab.sockets import say, serving
from tests.lab.system import eventually

from fairway_netlab.probe import Target
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root
PODS = [PodSpec("front", 1, "front"), PodSpec("web-1", 1, "web"), PodSpec("web-2", 2, "web"), PodSpec("alt", 2, "web", 8081)]
BOTH = {"web-1", "web-2"}
OUTER = "203.0.113.{}"
GOING = {"conditions": {"ready": False, "serving": True, "terminating": True}}
HERE, THERE = LINK[4].format(1), LINK[4].format(2)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with LabSession() as session, cluster(session.up, tmp_path_factory.mktemp("cluster"), PODS) as made:
        for host, gateway in (("client", HERE), ("n1", LINK[4].format(4))):
            made.lab.exec(host, ["ip", "route", "add", OUTER.format("0/24"), "via", gateway], check=True)
        # The kernel sends one ICMP error per second to a peer, which is less than the tests provoke.
        made.lab.exec("n1", ["sysctl", "-w", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"], check=True)
        yield made


class Scene:
    """A Service of its own per test: name, virtual IPs, node port; and a look at who answers."""

    def __init__(self, two: Cluster) -> None:
        number = next(_numbers)
        self.two, self.lab = two, two.lab
        self.name, self.ips = f"s{number}", [f"10.96.1.{number}", f"fd00:10:96::1:{number}"]
        self.vip, self.port, self.outer = self.ips[0], 31000 + number, OUTER.format(number)

    def put(self, mode: str = "VIP", **spec: Any) -> None:
        """The Service, as it is now. `mode` is that of its load balancer's address."""
        ingress = {"ip": self.outer, "ipMode": mode}
        status = {"loadBalancer": {"ingress": [ingress]}} if spec.get("type") == "LoadBalancer" else {}
        self.two.server.put({**service_of(self.name, **{"ips": self.ips, **spec}), "status": status})

    def back(self, *pods: str, **changes: Any) -> None:
        """Its endpoints; `changes` are put over each."""
        self.two.server.put(*self.two.slices(self.name, *pods, **changes))

    def slice(self, part: str, endpoints: Mapping[str, Mapping[str, Any]], port: int = 8080, protocol: str = "TCP") -> None:
        """One more IPv4 slice: by address, what is said of the endpoint."""
        labels = {"kubernetes.io/service-name": self.name}
        found = [{"addresses": [ip], "conditions": READY, **said} for ip, said in endpoints.items()]
        self.two.server.put(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": f"{self.name}-{part}", "namespace": "shop", "labels": labels},
                "addressType": "IPv4",
                "endpoints": found,
                "ports": [{"name": protocol.lower(), "port": port, "protocol": protocol}],
            }
        )

    def who(self, source: str, host: str, port: int = 80, protocol: Any = "TCP", count: int = 1) -> set[str]:
        """Who answers some tries at once, or what else becomes of them."""
        found = self.lab.probe(source, [Target(host, port, protocol)] * count, timeout=0.5)
        return {outcome.name or outcome.state for outcome in found}

    def becomes(self, wanted: set[str], source: str, host: str, port: int = 80, protocol: Any = "TCP", count: int = 16) -> None:
        what = f"{source} to {host}:{port}/{protocol}: {wanted}"
        eventually(lambda: self.who(source, host, port, protocol, count) == wanted, what)

    def turns(self, wanted: str, source: str, host: str, port: int = 80, protocol: str = "TCP", source_port: int = 0) -> None:
        """The same from a node too, or with a source port: `wanted` is the beginning of what comes back."""
        what = f"{source} to {host}:{port}/{protocol}: {wanted}"
        eventually(lambda: say(self.lab, source, host, port, protocol, source_port).startswith(wanted), what)

    def resolves(self, wanted: set[str], name: str) -> None:
        def found() -> set[str]:
            return {line.split()[0] for line in self.lab.exec("front", ["getent", "ahosts", name]).stdout.splitlines()}

        eventually(lambda: found() == wanted, f"{name} is {wanted}")


@pytest.fixture
def scene(two: Cluster) -> Iterator[Scene]:
    made = Scene(two)
    yield made
    for kind, names in (("Service", [made.name]), ("EndpointSlice", [f"{made.name}-{part}" for part in ("4", "6", "a", "b")])):
        for name in names:
            two.server.delete(kind, "shop", name)


def external(scene: Scene, target: str) -> None:
    meta = {"name": scene.name, "namespace": "shop"}
    spec = {"type": "ExternalName", "externalName": target}
    scene.two.server.put({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})


def test_the_type_changes_there_and_back(scene: Scene) -> None:
    external(scene, "web-1.heads.shop.svc.cluster.local")
    scene.two.publish("heads", *BOTH, ips=())
    scene.resolves(set(scene.lab.addresses("web-1")), f"{scene.name}.shop")
    external(scene, "web-2.heads.shop.svc.cluster.local")
    scene.resolves(set(scene.lab.addresses("web-2")), f"{scene.name}.shop")
    scene.put()
    scene.back(*BOTH)
    scene.resolves(set(scene.ips), f"{scene.name}.shop")
    scene.becomes(BOTH, "front", scene.vip)
    assert scene.who("client", HERE, scene.port) == {"refused"}
    scene.put(nodePort=scene.port)
    scene.becomes(BOTH, "client", HERE, scene.port)
    scene.put(type="LoadBalancer", nodePort=scene.port)
    scene.becomes(BOTH, "client", scene.outer)
    scene.put(mode="Proxy", type="LoadBalancer", nodePort=scene.port)
    eventually(lambda: scene.who("client", scene.outer) <= {"timeout", "unreachable"}, "the balancer's own to serve")
    scene.put()
    scene.becomes({"refused"}, "client", HERE, scene.port)
    scene.becomes(BOTH, "front", scene.vip)
    external(scene, "web-2.heads.shop.svc.cluster.local")
    scene.resolves(set(scene.lab.addresses("web-2")), f"{scene.name}.shop")
    assert scene.who("front", scene.vip) <= {"timeout", "unreachable"}


def test_without_endpoints_everybody_is_refused_at_once(scene: Scene) -> None:
    scene.put(type="LoadBalancer", nodePort=scene.port)
    scene.back("web-1")
    scene.becomes({"web-1"}, "client", scene.outer)
    evicted = {**pod_of(PODS[1]), "status": {"phase": "Failed", "reason": "Evicted"}}
    scene.two.server.put(evicted)
    scene.back()
    try:
        for protocol in ("TCP", "UDP"):
            for source, host, port in (
                ("front", scene.vip, 80),
                ("front", scene.ips[1], 80),
                ("front", HERE, scene.port),
                ("client", HERE, scene.port),
                ("client", scene.outer, 80),
            ):
                scene.becomes({"refused"}, source, host, port, protocol, count=1)
            scene.turns("refused", "n1", scene.vip, 80, protocol)
    finally:
        scene.two.report(PODS[1])


def test_local_policy_from_outside_and_inside(scene: Scene) -> None:
    scene.put(type="LoadBalancer", nodePort=scene.port, externalTrafficPolicy="Local")
    scene.back("web-2")
    scene.becomes({"web-2"}, "client", THERE, scene.port)
    for host, port in ((HERE, scene.port), (scene.outer, 80)):
        scene.becomes({"timeout"}, "client", host, port, count=1)
        scene.becomes({"web-2"}, "front", host, port)
        scene.turns("web-2", "n1", host, port)
    scene.put(type="LoadBalancer", nodePort=scene.port)
    scene.becomes({"web-2"}, "client", HERE, scene.port)
    scene.becomes({"web-2"}, "client", scene.outer)


def test_affinity_is_switched_on_and_off(scene: Scene) -> None:
    scene.put(nodePort=scene.port)
    scene.back(*BOTH)
    doors = (("front", scene.vip, 80), ("client", HERE, scene.port))
    for door in doors:
        scene.becomes(BOTH, *door)
    scene.put(nodePort=scene.port, sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})
    for door in doors:
        eventually(lambda door=door: scene.who(*door) == scene.who(*door, count=16), f"{door} stays")
        assert len(scene.who(*door, count=16)) == 1
    scene.put(nodePort=scene.port)
    for door in doors:
        scene.becomes(BOTH, *door)


def test_one_port_two_protocols_and_ports_that_differ_by_endpoint(scene: Scene) -> None:
    scene.put()
    scene.slice("a", {scene.lab.address("web-1"): {}})
    scene.slice("b", {scene.lab.address("web-2"): {}}, protocol="UDP")
    scene.becomes({"web-1"}, "front", scene.vip)
    scene.becomes({"web-2"}, "front", scene.vip, protocol="UDP")
    # A named target port is another number in another pod: one slice per number.
    scene.slice("b", {scene.lab.address("alt"): {}}, port=8081)
    scene.becomes({"web-1", "alt"}, "front", scene.vip)
    scene.becomes({"refused"}, "front", scene.vip, protocol="UDP", count=1)


@pytest.mark.parametrize(("source", "by_node_port"), [("front", False), ("n1", False), ("client", True)])
def test_a_udp_client_with_one_port_follows_the_endpoints(scene: Scene, source: str, by_node_port: bool) -> None:
    scene.put(nodePort=scene.port)
    host, port = (HERE, scene.port) if by_node_port else (scene.vip, 80)
    scene.turns("refused", source, host, port, "UDP", 40000)
    scene.back("web-1")
    scene.turns("web-1", source, host, port, "UDP", 40000)
    scene.back("web-2")
    scene.turns("web-2", source, host, port, "UDP", 40000)
    scene.back("web-2", conditions={"ready": False, "serving": False, "terminating": False})
    scene.turns("refused", source, host, port, "UDP", 40000)


def test_endpoints_that_terminate_serve_when_none_is_ready(scene: Scene) -> None:
    scene.put(nodePort=scene.port)
    addresses = [scene.lab.address(name) for name in sorted(BOTH)]
    here, there = ({ip: {"nodeName": f"n{number}"}} for number, ip in enumerate(addresses, 1))
    scene.slice("a", here)
    scene.slice("b", {ip: {**said, **GOING} for ip, said in there.items()})
    scene.becomes({"web-1"}, "front", scene.vip)
    scene.slice("a", {ip: {**said, **GOING} for ip, said in here.items()})
    scene.becomes(BOTH, "front", scene.vip)
    scene.put(nodePort=scene.port, externalTrafficPolicy="Local", internalTrafficPolicy="Local")
    for name, node, pod in (("web-1", HERE, "front"), ("web-2", THERE, "alt")):
        scene.becomes({name}, "client", node, scene.port)
        scene.becomes({name}, pod, scene.vip)
    scene.slice("a", here)
    scene.becomes({"web-2"}, "client", THERE, scene.port)
    scene.slice("b", {})
    scene.becomes({"timeout"}, "client", THERE, scene.port, count=1)


def test_pods_that_are_not_ready_are_published_if_the_service_says_so(scene: Scene) -> None:
    """The controller then calls them ready, whatever their conditions."""
    scene.put(publishNotReadyAddresses=True)
    scene.back("web-1", conditions={"ready": False, "serving": False, "terminating": False})
    scene.becomes({"refused"}, "front", scene.vip)
    scene.back("web-1", conditions={"ready": True, "serving": False, "terminating": True})
    scene.becomes({"web-1"}, "front", scene.vip)


def test_headless_services_and_names_of_pods(scene: Scene) -> None:
    scene.put(ips=[], selector=None)
    scene.back(*BOTH)
    scene.resolves({ip for name in BOTH for ip in scene.lab.addresses(name)}, f"{scene.name}.shop.svc.cluster.local")
    for name in BOTH:
        scene.resolves(set(scene.lab.addresses(name)), f"{name}.{scene.name}.shop.svc.cluster.local")
    scene.back("web-2")
    scene.resolves(set(scene.lab.addresses("web-2")), f"{scene.name}.shop")


def test_the_api_server_as_a_service(scene: Scene) -> None:
    """Its endpoints are no pods: the server sees the node, since nobody there knows the way to pods."""
    spec = {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": [{"name": "https", "port": 443, "targetPort": 6443}]}
    meta = {"name": "kubernetes", "namespace": "default"}
    labels = {"kubernetes.io/service-name": "kubernetes"}
    scene.two.server.put(
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**meta, "labels": labels},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [LINK[4].format(3)], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
        },
    )
    command = ["curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", "http://10.96.0.1:443/api/v1/pods"]
    for source in ("front", "web-2", "n1"):
        eventually(lambda source=source: scene.lab.exec(source, command).stdout == "401", f"{source} reaches the API server")


@pytest.mark.parametrize("label", ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"])
def test_services_of_others_are_left_alone_while_they_are(scene: Scene, label: str) -> None:
    scene.put()
    scene.back("web-1")
    scene.becomes({"web-1"}, "front", scene.vip)
    labelled = service_of(scene.name, ips=scene.ips)
    labelled["metadata"]["labels"] = {label: "other"}
    scene.two.server.put(labelled)
    eventually(lambda: scene.who("front", scene.vip) <= {"timeout", "unreachable"}, "it is left alone")
    scene.put()
    scene.becomes({"web-1"}, "front", scene.vip)


def test_programs_on_nodes_are_endpoints_and_clients(scene: Scene, tmp_path: Path) -> None:
    with serving(scene.lab, "n2", "daemon", 9100, tmp_path):
        scene.put(nodePort=scene.port)
        scene.slice("a", {THERE: {"nodeName": "n2"}}, port=9100)
        scene.slice("b", {THERE: {"nodeName": "n2"}}, port=9100, protocol="UDP")
        for protocol in ("TCP", "UDP"):
            for source in ("front", "web-2", "n1", "n2"):
                scene.turns("daemon", source, scene.vip, 80, protocol)
            for node in (HERE, THERE):
                scene.turns("daemon", "client", node, scene.port, protocol)


def test_families_and_their_order(scene: Scene) -> None:
    scene.put(ips=scene.ips[::-1], nodePort=scene.port)
    scene.back(*BOTH)
    for ip in scene.ips:
        scene.becomes(BOTH, "front", ip)
    scene.put(ips=scene.ips[1:], nodePort=scene.port)
    eventually(lambda: scene.who("front", scene.vip) <= {"timeout", "unreachable"}, "IPv4 is gone")
    scene.becomes(BOTH, "front", scene.ips[1])
    scene.becomes(BOTH, "client", LINK[6].format(1), scene.port)
    assert scene.who("client", HERE, scene.port) == {"refused"}
    scene.resolves({scene.ips[1]}, f"{scene.name}.shop")


def test_node_ports_are_at_every_address_but_loopback(scene: Scene) -> None:
    second = "192.168.90.111"
    scene.lab.exec("n1", ["ip", "address", "add", f"{second}/32", "dev", "lo"], check=True)
    scene.lab.exec("client", ["ip", "route", "add", second, "via", HERE], check=True)
    scene.put(nodePort=scene.port)
    scene.back("web-2")
    for source in ("client", "front", "n1"):
        for node in (HERE, THERE, second):
            scene.turns("web-2", source, node, scene.port)
    for loopback in ("127.0.0.1", "::1"):
        assert say(scene.lab, "n1", loopback, scene.port) == "refused"


def test_a_pod_reaches_itself_by_every_door(scene: Scene) -> None:
    scene.put(type="LoadBalancer", nodePort=scene.port)
    scene.back("web-1")
    for protocol in ("TCP", "UDP"):
        for host, port in ((scene.vip, 80), (scene.ips[1], 80), (HERE, scene.port), (THERE, scene.port), (scene.outer, 80)):
            scene.becomes({"web-1"}, "web-1", host, port, protocol, count=2)


def test_ports_change_and_a_service_made_anew_has_its_new_address(scene: Scene) -> None:
    scene.put()
    scene.back("web-1")
    scene.becomes({"web-1"}, "front", scene.vip)
    scene.put(port=8088)
    scene.becomes({"web-1"}, "front", scene.vip, 8088)
    assert scene.who("front", scene.vip) == {"refused"}
    scene.two.server.delete("Service", "shop", scene.name)
    eventually(lambda: scene.who("front", scene.vip, 8088) <= {"timeout", "unreachable"}, "it is gone")
    again = [f"{ip}9" for ip in scene.ips]
    scene.put(ips=again)
    scene.becomes({"web-1"}, "front", again[0])
    scene.resolves(set(again), f"{scene.name}.shop")
