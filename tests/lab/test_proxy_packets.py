"""Real packets through the compiled service rules, in namespaces: a node, four pods, a client outside, a machine outside."""

from __future__ import annotations

import itertools
import os
import select
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from fairway_core.delta import DeltaTracker
from fairway_core.keys import Key
from fairway_core.model import Endpoint, EndpointSlice, Meta, Object, Service, ServicePort, SlicePort
from fairway_core.model.service import SERVICE_NAME_LABEL
from fairway_core.world import Change, World
from fairway_kernel import netns
from fairway_kernel.conntrack import Conntrack
from fairway_kernel.nft.objects import INET, ElementValue, Slot
from fairway_kernel.nft.transaction import add_layout, element_delta
from fairway_proxy.compile import ServiceCompiler

pytestmark = pytest.mark.needs_root

PODS = 4
PORT = 8080
VIP = {4: "10.96.0.10", 6: "fd00:10:96::10"}
POD = {4: "10.244.0.{}", 6: "fd00:10:244::{}"}
NODE = {4: "192.0.2.1", 6: "2001:db8:1::1"}
CLIENT = {4: "192.0.2.2", 6: "2001:db8:1::2"}
REMOTE = {4: "198.51.100.2", 6: "2001:db8:2::2"}
NODE_TO_REMOTE = {4: "198.51.100.1", 6: "2001:db8:2::1"}
NODE_PORT = 30080
# The kernel's own multicast listener reports carry marks; only connections matter here. The last rule of `forward` writes the
# low bits of the connection mark, as policy does.
MARK_WATCH = """table inet watch {
 chain forward {
  type filter hook forward priority -5
  meta l4proto { tcp, udp } jump marked
  ct mark set ct mark & 0xfffff000 | 0x005
 }
 chain post { type filter hook postrouting priority 150; meta l4proto { tcp, udp } jump marked; }
 chain marked { meta mark != 0 counter; meta priority != 0 counter; }
}
"""


def pod_ip(number: int, family: int) -> str:
    return POD[family].format(10 + number)


def _ip(path: str, *lines: str) -> None:
    subprocess.run(["ip", "-n", Path(path).name, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _socket(path: str, family: int, kind: int) -> socket.socket:
    return netns.run_in(path, lambda: socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET, kind))


class Servers:
    """TCP and UDP servers that answer with their name and the client address they saw."""

    def __init__(self) -> None:
        self._names: dict[socket.socket, str] = {}
        self._stop_r, self._stop_w = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def listen(self, path: str, name: str, ip: str, port: int) -> None:
        family = 6 if ":" in ip else 4
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            server = _socket(path, family, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((ip, port))
            if kind == socket.SOCK_STREAM:
                server.listen(512)
            self._names[server] = name

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.write(self._stop_w, b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for server in self._names:
            server.close()
        os.close(self._stop_r)
        os.close(self._stop_w)

    def _serve(self) -> None:
        while True:
            readable = select.select([self._stop_r, *self._names], [], [])[0]
            if self._stop_r in readable:
                return
            for server in readable:
                self._answer(server)

    def _answer(self, server: socket.socket) -> None:
        if server.type == socket.SOCK_DGRAM:
            _data, peer = server.recvfrom(64)
            server.sendto(f"{self._names[server]} {peer[0]}".encode(), peer)
            return
        connection, peer = server.accept()
        with closing(connection):
            connection.sendall(f"{self._names[server]} {peer[0]}".encode())


class Node:
    """The node's service rules, kept as the agent keeps them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._world = World()
        self._compiler = ServiceCompiler("here", ("10.244.0.0/24", "fd00:10:244::/64"))
        self._tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()
        self._decls = {decl.name: decl for decl in self._compiler.layout.sets}
        self.nft("flush ruleset\n" + str(add_layout(self._compiler.layout, [INET])) + MARK_WATCH)

    def nft(self, script: str) -> None:
        command = ["ip", "netns", "exec", Path(self.path).name, "nft", "-f", "-"]
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr

    def list(self, what: str) -> str:
        command = ["ip", "netns", "exec", Path(self.path).name, "nft", "list", *what.split()]
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout

    def put(self, *objects: Object) -> None:
        changes = [Change(Key(type(item).__name__, item.meta.namespace, item.meta.name), item) for item in objects]
        after, touched = self._world.apply(changes, self._world.revision + 1)
        for owner, elements in self._compiler.update(self._world, after, touched).items():
            self._tracker.declare(owner, elements)
        self._world = after
        delta = self._tracker.pending()
        self.nft(str(element_delta(delta, self._decls)))
        self._tracker.committed(delta)
        stale = self._compiler.stale_flows()
        if stale:
            conntrack = Conntrack(self.path)
            conntrack.forget(stale)
            conntrack.close()


class Lab:
    """Namespaces and servers, made once for all tests here."""

    def __init__(self) -> None:
        prefix = f"fwt-{os.getpid()}-proxy"
        self.servers = Servers()
        self.names = [f"{prefix}-{hint}" for hint in ("node", "client", "remote", *(f"pod{i}" for i in range(PODS)))]

    def build(self) -> None:
        """Make everything; `remove` undoes as much of it as was made."""
        paths = [netns.create(name) for name in self.names]
        self.node, self.client, self.remote = paths[:3]
        self.pods = paths[3:]
        netns.run_in(self.node, self._forwarding)
        _ip(self.node, "link set lo up")
        self._uplink("up0", self.client, NODE, CLIENT)
        self._uplink("up1", self.remote, NODE_TO_REMOTE, REMOTE)
        _ip(self.node, f"route add 10.96.0.0/16 dev up0 src {NODE[4]}", f"route add fd00:10:96::/112 dev up0 src {NODE[6]}")
        for number, path in enumerate(self.pods):
            self._pod(number, path)
        self.servers.start()

    @staticmethod
    def _forwarding() -> None:
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        # The kernel sends one ICMP error per second to a peer, which is less than the tests provoke.
        Path("/proc/sys/net/ipv4/icmp_ratelimit").write_text("0")
        Path("/proc/sys/net/ipv6/icmp/ratelimit").write_text("0")

    def _veth(self, name: str, path: str) -> None:
        peer = Path(path).name
        _ip(self.node, f"link add {name} type veth peer name eth0 netns {peer}", f"link set {name} up")
        _ip(path, "link set lo up", "link set eth0 up")

    def _uplink(self, name: str, path: str, ours: dict[int, str], theirs: dict[int, str]) -> None:
        self._veth(name, path)
        _ip(self.node, f"addr add {ours[4]}/24 dev {name}", f"addr add {ours[6]}/64 dev {name} nodad")
        _ip(path, f"addr add {theirs[4]}/24 dev eth0", f"addr add {theirs[6]}/64 dev eth0 nodad")
        _ip(path, f"route add default via {ours[4]}", f"route add default via {ours[6]}")
        for family in (4, 6):
            self.servers.listen(path, f"outside-{name}", theirs[family], PORT)

    def _pod(self, number: int, path: str) -> None:
        name = f"pod{number}"
        self._veth(name, path)
        four, six = pod_ip(number, 4), pod_ip(number, 6)
        _ip(self.node, f"addr add 169.254.1.1/32 dev {name}", f"addr add fe80::1/64 dev {name} nodad")
        _ip(self.node, f"route add {four}/32 dev {name}", f"route add {six}/128 dev {name}")
        _ip(path, f"addr add {four}/32 dev eth0", f"addr add {six}/128 dev eth0 nodad")
        _ip(path, "route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1 dev eth0 onlink")
        _ip(path, "route add default via fe80::1 dev eth0")
        for ip in (four, six):
            self.servers.listen(path, name, ip, PORT)
            self.servers.listen(path, f"{name}-second", ip, PORT + 1)

    def remove(self) -> None:
        self.servers.stop()
        for name in self.names:
            netns.delete(name)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@pytest.fixture
def node(lab: Lab) -> Node:
    return Node(lab.node)


def service(**fields: object) -> Service:
    ports = (ServicePort(80, "TCP", "t", PORT, NODE_PORT), ServicePort(80, "UDP", "u", PORT, NODE_PORT))
    return Service(Meta("web", "shop"), cluster_ips=tuple(VIP.values()), ports=ports, **fields)  # type: ignore[arg-type]


def slices(
    pods: Sequence[int] = (), addresses: Sequence[dict[int, str]] = (), port: int = PORT, where: str = "here"
) -> list[Object]:
    made: list[Object] = []
    for family in (4, 6):
        ips = [*(pod_ip(pod, family) for pod in pods), *(address[family] for address in addresses)]
        ports = (SlicePort("t", port, "TCP"), SlicePort("u", port, "UDP"))
        meta = Meta(f"web-{family}", "shop", {SERVICE_NAME_LABEL: "web"})
        made.append(EndpointSlice(meta, "web", family, tuple(Endpoint((ip,), node_name=where) for ip in ips), ports))
    return made


def ask(path: str, ip: str, port: int = 80, kind: int = socket.SOCK_STREAM, timeout: float = 2.0) -> tuple[str, str]:
    """Who answered, and the client address it saw. Raises OSError."""
    with closing(_socket(path, 6 if ":" in ip else 4, kind)) as client:
        client.settimeout(timeout)
        client.connect((ip, port))
        if kind == socket.SOCK_DGRAM:
            client.send(b"?")
        name, peer = client.recv(200).decode().split()
        return name, peer


def answers(count: int, question: Callable[[], tuple[str, str]]) -> Counter[str]:
    return Counter(question()[0] for _ in range(count))


def leaks(node: Node) -> list[str]:
    return [line for line in node.list("table inet watch").splitlines() if "packets" in line and "packets 0 " not in line]


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_connections_spread_over_the_endpoints_and_keep_the_client_address(lab: Lab, node: Node, family: int, kind: int) -> None:
    node.put(service(), *slices([1, 2, 3]))
    seen = answers(90, lambda: ask(lab.pods[0], VIP[family], kind=kind))
    assert set(seen) == {"pod1", "pod2", "pod3"}
    # Binomial(90, 1/3): outside 10 .. 55 in one of 10**6 runs.
    assert all(10 <= count <= 55 for count in seen.values())
    assert ask(lab.pods[0], VIP[family], kind=kind)[1] == pod_ip(0, family)
    assert not leaks(node)


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_reaches_itself_through_its_service(lab: Lab, node: Node, family: int) -> None:
    node.put(service(), *slices([0]))
    name, peer = ask(lab.pods[0], VIP[family])
    assert name == "pod0" and peer != pod_ip(0, family)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("source", ["pod", "node"])
def test_without_endpoints_and_on_unknown_ports_the_answer_is_refusal_at_once(
    lab: Lab, node: Node, family: int, source: str
) -> None:
    node.put(service(), *slices([]))
    path = lab.pods[0] if source == "pod" else lab.node
    for kind, port in itertools.product((socket.SOCK_STREAM, socket.SOCK_DGRAM), (80, 81)):
        start = time.monotonic()
        with pytest.raises((ConnectionRefusedError, PermissionError)):
            ask(path, VIP[family], port, kind)
        assert time.monotonic() - start < 1.0


def test_a_udp_sender_finds_endpoints_that_come_back_without_a_new_socket(lab: Lab, node: Node) -> None:
    node.put(service(), *slices([]))
    with closing(_socket(lab.pods[0], 4, socket.SOCK_DGRAM)) as client:
        client.settimeout(2)
        client.connect((VIP[4], 80))
        client.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)
        node.put(*slices([2]))
        client.send(b"?")
        assert client.recv(100).decode().split()[0] == "pod2"


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("source", ["pod", "node", "client"])
def test_a_udp_sender_that_was_there_before_the_service(lab: Lab, node: Node, family: int, source: str) -> None:
    node.put()
    path = {"pod": lab.pods[0], "node": lab.node, "client": lab.client}[source]
    door = (NODE[family], NODE_PORT) if source == "client" else (VIP[family], 80)
    with closing(_socket(path, family, socket.SOCK_DGRAM)) as sender:
        sender.settimeout(0.3)
        sender.connect(door)
        sender.send(b"?")
        with pytest.raises(OSError):
            sender.recv(100)
        node.put(service(), *slices([2]))
        sender.send(b"?")
        assert sender.recv(100).decode().split()[0] == "pod2"


@pytest.mark.parametrize("family", [4, 6])
def test_a_udp_socket_moves_on_when_its_endpoint_goes_and_stays_while_it_lives(lab: Lab, node: Node, family: int) -> None:
    node.put(service(), *slices([1, 2]))
    with closing(_socket(lab.pods[0], family, socket.SOCK_DGRAM)) as client:
        client.settimeout(2)
        client.connect((VIP[family], 80))

        def who() -> int:
            client.send(b"?")
            return int(client.recv(100).decode().split()[0][-1])

        first = who()
        node.put(*slices([1, 2, 3]))
        assert who() == first
        node.put(*slices([pod for pod in (1, 2, 3) if pod != first]))
        second = who()
        assert second != first and who() == second


@pytest.mark.parametrize("family", [4, 6])
def test_a_node_port_serves_clients_outside_and_pods_see_their_address(lab: Lab, node: Node, family: int) -> None:
    node.put(service(), *slices([1, 2]))
    seen = answers(40, lambda: ask(lab.client, NODE[family], NODE_PORT))
    assert set(seen) == {"pod1", "pod2"}
    assert ask(lab.client, NODE[family], NODE_PORT)[1] == CLIENT[family]
    assert ask(lab.client, NODE[family], NODE_PORT, socket.SOCK_DGRAM)[1] == CLIENT[family]
    with pytest.raises(ConnectionRefusedError):
        ask(lab.client, NODE[family], NODE_PORT + 1)
    assert not leaks(node)


@pytest.mark.parametrize("family", [4, 6])
def test_an_endpoint_outside_sees_the_node_so_that_answers_return_this_way(lab: Lab, node: Node, family: int) -> None:
    node.put(service(), *slices(addresses=[REMOTE], where=""))
    assert ask(lab.client, NODE[family], NODE_PORT) == ("outside-up1", NODE_TO_REMOTE[family])
    assert ask(lab.pods[0], VIP[family])[0] == "outside-up1"


@pytest.mark.parametrize("family", [4, 6])
def test_the_node_itself_reaches_virtual_addresses_and_its_node_ports(lab: Lab, node: Node, family: int) -> None:
    node.put(service(), *slices([1, 2]))
    assert set(answers(30, lambda: ask(lab.node, VIP[family]))) == {"pod1", "pod2"}
    assert ask(lab.node, NODE[family], NODE_PORT)[0] in {"pod1", "pod2"}
    assert not leaks(node)


def test_external_and_load_balancer_addresses_lead_to_the_same_endpoints(lab: Lab, node: Node) -> None:
    outside = service(external_ips=("203.0.113.7",), load_balancer_ips=("203.0.113.8", "2001:db8:9::8"))
    node.put(outside, *slices([3]))
    assert [ask(lab.client, ip)[0] for ip in ("203.0.113.7", "203.0.113.8", "2001:db8:9::8")] == ["pod3"] * 3


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_policy_local_is_for_clients_outside(lab: Lab, node: Node, family: int, kind: int) -> None:
    """What only other nodes could serve is dropped for them; pods and the node itself are sent there."""
    outer = {4: "203.0.113.8", 6: "2001:db8:9::8"}
    local = service(external_policy_local=True, internal_policy_local=True, load_balancer_ips=tuple(outer.values()))
    node.put(local, *slices(addresses=[REMOTE], where="elsewhere"))
    for address, port in ((NODE[family], NODE_PORT), (outer[family], 80)):
        with pytest.raises(TimeoutError):
            ask(lab.client, address, port, kind, timeout=0.3)
        assert ask(lab.pods[0], address, port, kind) == ("outside-up1", pod_ip(0, family))
        assert ask(lab.node, NODE[family], NODE_PORT, kind)[0] == "outside-up1"
    with pytest.raises(TimeoutError):
        ask(lab.pods[0], VIP[family], kind=kind, timeout=0.3)
    assert not leaks(node)
    node.put(*slices([1]))
    assert ask(lab.client, NODE[family], NODE_PORT, kind) == ("pod1", CLIENT[family])
    node.put(*slices())
    for path in (lab.client, lab.pods[0], lab.node):
        with pytest.raises((ConnectionRefusedError, PermissionError)):
            ask(path, NODE[family], NODE_PORT, kind)


def test_both_sides_of_policy_local_keep_their_clients(lab: Lab, node: Node) -> None:
    node.put(service(external_policy_local=True, affinity_seconds=60), *slices([1, 2]))
    for path in (lab.client, lab.pods[0], lab.node):
        assert len(answers(10, lambda path=path: ask(path, NODE[4], NODE_PORT))) == 1


@pytest.mark.parametrize("family", [4, 6])
def test_a_client_stays_at_its_endpoint_until_that_goes(lab: Lab, node: Node, family: int) -> None:
    node.put(service(affinity_seconds=10800), *slices([1, 2, 3]))
    for source in (lab.pods[0], lab.client):
        door = (VIP[family], 80) if source == lab.pods[0] else (NODE[family], NODE_PORT)
        first = ask(source, *door)[0]
        assert answers(15, lambda source=source, door=door: ask(source, *door)) == {first: 15}
    home = int(ask(lab.pods[0], VIP[family])[0][-1])
    others = [pod for pod in (1, 2, 3) if pod != home]
    node.put(*slices(others))
    second = ask(lab.pods[0], VIP[family])[0]
    assert second != f"pod{home}"
    node.put(*slices([1, 2, 3]))
    assert answers(15, lambda: ask(lab.pods[0], VIP[family])) == {second: 15}
    assert not leaks(node)


def test_affinity_lasts_for_the_timeout_of_the_service(lab: Lab, node: Node) -> None:
    node.put(service(affinity_seconds=24), *slices([1, 2]))
    ask(lab.pods[0], VIP[4])
    assert "timeout 30s" in node.list("map inet fairway svc_aff4")


def test_many_endpoints_are_all_reached(lab: Lab, node: Node) -> None:
    made = []
    for number in range(70):
        port = PORT + number % 2
        meta = Meta(f"web-{number}", "shop", {SERVICE_NAME_LABEL: "web"})
        ips = (f"10.244.0.{10 + number % PODS}",) if number < 8 else (f"10.244.0.{100 + number}",)
        made.append(EndpointSlice(meta, "web", 4, (Endpoint(ips, node_name="here"),), (SlicePort("t", port, "TCP"),)))
    node.put(service(), *made)
    elements = node.list("map inet fairway eps4").count(" : ") - 1
    assert elements >= 1024
    node.put(service(), *(replaced for replaced in made[8:] for replaced in [EndpointSlice(replaced.meta, "web", 4)]))
    assert set(answers(80, lambda: ask(lab.pods[0], VIP[4]))) >= {"pod0", "pod2", "pod1-second", "pod3-second"}


def test_endpoints_are_replaced_under_load_without_a_failed_connection(lab: Lab, node: Node) -> None:
    node.put(service(), *slices([1, 2, 3]))
    stop, failures, done = threading.Event(), [], Counter[str]()

    def load() -> None:
        while not stop.is_set():
            try:
                done[ask(lab.pods[0], VIP[4])[0]] += 1
            except OSError as error:
                failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for pods in [*itertools.permutations([1, 2, 3], 2), [1], [2], [1, 2, 3]] * 3:
        node.put(*slices(pods))
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert set(done) == {"pod1", "pod2", "pod3"} and sum(done.values()) > 50


def test_what_is_deleted_leaves_nothing_in_the_kernel(lab: Lab, node: Node) -> None:
    node.put(service(affinity_seconds=60), *slices([1, 2]))
    node.put(Service(Meta("web", "shop"), headless=True))
    for decl in node._decls.values():
        if not decl.dynamic:
            word = "set" if decl.value is None else "map"
            assert "elements" not in node.list(f"{word} inet fairway {decl.name}")
