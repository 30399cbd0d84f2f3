"""Real packets through the compiled policy rules: a node, four pods on routed veths, a machine outside; IPv4 and IPv6."""

from __future__ import annotations

import os
import random
import selectors
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from fairway_core.codec import decode, key_of
from fairway_core.delta import DeltaTracker
from fairway_core.keys import Key
from fairway_core.model import Meta, Node, Pod, PodPort
from fairway_core.world import Change, World
from fairway_kernel import netns
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import INET, ElementValue, Slot
from fairway_kernel.nft.transaction import Transaction, add_layout, element_delta, replace_chain
from fairway_policy.compiler import PolicyCompiler
from fairway_policy.generation import (
    GENERATION_OWNER,
    generation_chains,
    generation_elements,
    next_generation,
    read_generation,
)
from fairway_policy.verdict import Flow, judge

pytestmark = pytest.mark.needs_root

T = TypeVar("T")
PORTS = (80, 81, 8080)
PODS = {
    "web-1": ("shop", {"app": "web"}, 80),
    "web-2": ("shop", {"app": "web", "tier": "edge"}, 80),
    "api-1": ("shop", {"app": "api"}, 80),
    "api-2": ("payments", {"app": "api"}, 81),
}
ADDRESS = {
    4: {name: f"10.9.0.{n}" for n, name in enumerate(PODS, 1)}
    | {"outside": "192.0.2.2", "node": "192.0.2.1", "foreign": "10.8.0.1"},
    6: {name: f"fd09::{n}" for n, name in enumerate(PODS, 1)}
    | {"outside": "2001:db8::2", "node": "2001:db8::1", "foreign": "fd08::1"},
}
VIP = {4: "10.96.0.1", 6: "fd96::1"}
QUIET = 0.25
"""Seconds to wait for an answer that must not come."""
SERVICE_BITS = 0x12345000

SERVICE_NAT = """
table inet vips {
 chain pre { type nat hook prerouting priority dstnat;
  ip daddr 10.96.0.1 tcp dport 8000 ct mark set 0x12345000 dnat ip to 10.9.0.3:80
  ip6 daddr fd96::1 tcp dport 8000 ct mark set 0x12345000 dnat ip6 to [fd09::3]:80
 }
 chain post { type nat hook postrouting priority srcnat;
  ip saddr 10.9.0.3 ip daddr 10.9.0.3 masquerade
  ip6 saddr fd09::3 ip6 daddr fd09::3 masquerade
 }
 chain leak { type filter hook postrouting priority 300;
  meta l4proto { tcp, udp } meta mark != 0 counter
  meta l4proto { tcp, udp } meta priority != 0 counter
 }
}
"""


def _run(*command: str, script: str = "") -> str:
    done = subprocess.run(command, input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def _ip(path: str, *lines: str) -> None:
    _run("ip", "-n", Path(path).name, "-batch", "-", script="\n".join(lines))


class Servers:
    """TCP and UDP servers on every port of every place, which greet and then echo. One thread."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._stop_r, self._stop_w = os.pipe()
        self._selector.register(self._stop_r, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def listen(self, path: str) -> None:
        for server in netns.run_in(path, _listeners):
            handler = self._accept if server.type == socket.SOCK_STREAM else self._datagram
            self._selector.register(server, selectors.EVENT_READ, handler)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        os.write(self._stop_w, b"x")
        self._thread.join()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        os.close(self._stop_r)
        os.close(self._stop_w)

    def _serve(self) -> None:
        while True:
            for key, _events in self._selector.select():
                if key.data is None:
                    return
                with suppress(OSError):
                    key.data(key.fileobj)

    def _accept(self, server: socket.socket) -> None:
        connection, _peer = server.accept()
        self._selector.register(connection, selectors.EVENT_READ, self._echo)
        connection.sendall(b"hello")

    def _echo(self, connection: socket.socket) -> None:
        data = b""
        try:
            data = connection.recv(100)
            connection.sendall(data)
        finally:
            if not data:
                self._selector.unregister(connection)
                connection.close()

    def _datagram(self, server: socket.socket) -> None:
        data, peer = server.recvfrom(100)
        server.sendto(data, peer)


def _listeners() -> list[socket.socket]:
    found = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for port in PORTS:
            server = socket.socket(socket.AF_INET6, kind)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind(("::", port))
            if kind == socket.SOCK_STREAM:
                server.listen(64)
            found.append(server)
    return found


class Lab:
    """The namespaces, and the node's rules kept as an agent keeps them: elements first, a bump second if rights were lost."""

    def __init__(self) -> None:
        prefix = f"fwt-{os.getpid()}-policy"
        self.paths = dict.fromkeys(("node", "outside", "foreign", *PODS), "")
        self._names = {place: f"{prefix}-{place}" for place in self.paths}
        self.servers = Servers()
        self.compiler = PolicyCompiler()
        self.tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()
        self.world = World(derive_endpoints=False)
        self.generation = 0
        self.bumps = 0

    def build(self) -> None:
        for place, name in self._names.items():
            self.paths[place] = netns.create(name)
            _ip(self.paths[place], "link set lo up")
        node = self.paths["node"]
        self._wire("outside")
        _ip(node, "addr add 192.0.2.1/24 dev h-outside", "addr add 2001:db8::1/64 dev h-outside nodad")
        gateways = ("route add default via 192.0.2.1", "route add default via 2001:db8::1")
        _ip(self.paths["outside"], "addr add 192.0.2.2/24 dev eth0", "addr add 2001:db8::2/64 dev eth0 nodad", *gateways)
        for pod in ("foreign", *PODS):
            self._wire_pod(pod)
        netns.run_in(node, _configure_router)
        for place in ("outside", *PODS):
            self.servers.listen(self.paths[place])
        self.servers.start()
        self.runner = LibnftablesRunner(node)
        start = add_layout(self.compiler.layout, [INET])
        self.runner.run(start)
        _run("ip", "netns", "exec", self._names["node"], "nft", "-f", "-", script=SERVICE_NAT)
        self.bump()
        self.put(*(_pod(name) for name in PODS), _node())

    def _wire(self, place: str) -> None:
        end = f"h-{place}"
        _ip(self.paths["node"], f"link add {end} type veth peer name eth0 netns {self._names[place]}", f"link set {end} up")
        _ip(self.paths[place], "link set eth0 up")

    def _wire_pod(self, pod: str) -> None:
        self._wire(pod)
        ip4, ip6, end = ADDRESS[4][pod], ADDRESS[6][pod], f"h-{pod}"
        inside = (f"addr add {ip4}/32 dev eth0", f"addr add {ip6}/128 dev eth0 nodad")
        routes = ("route add 169.254.1.1 dev eth0", "route add default via 169.254.1.1", "route add default via fe80::1 dev eth0")
        _ip(self.paths[pod], *inside, *routes)
        gateway = (f"addr add 169.254.1.1/32 dev {end}", f"addr add fe80::1/64 dev {end} nodad")
        _ip(self.paths["node"], *gateway, f"route add {ip4} dev {end}", f"route add {ip6} dev {end}")

    def remove(self) -> None:
        self.servers.stop()
        self.runner.close()
        for name in self._names.values():
            netns.delete(name)

    def put(self, *objects: Any) -> None:
        self.change(*(Change(Key(type(item).__name__, item.meta.namespace, item.meta.name), item) for item in objects))

    def apply(self, text: str) -> None:
        documents = [document for document in yaml.safe_load_all(text) if document]
        self.change(*(Change(key_of(document), decode(document)) for document in documents))

    def reset(self) -> None:
        """No policies, the original pods."""
        gone = [Change(policy.meta.key("NetworkPolicy"), None) for policy in self.world.policies()]
        self.change(*gone, *(Change(Key("Pod", pod.meta.namespace, pod.meta.name), pod) for pod in map(_pod, PODS)))

    def change(self, *changes: Change) -> None:
        after, touched = self.world.apply(changes, self.world.revision + 1)
        for owner, elements in self.compiler.update(self.world, after, touched).items():
            self.tracker.declare(owner, elements)
        self.world = after
        delta = self.tracker.pending()
        if delta:
            self.runner.run(element_delta(delta, {decl.name: decl for decl in self.compiler.layout.sets}))
            if self.compiler.tightens(delta):
                self.bump()
            self.tracker.committed(delta)

    def bump(self) -> None:
        self.bumps += 1
        self.generation, _wrapped = next_generation(self.generation)
        tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()
        tracker.observe({slot: value for slot, value in self.tracker.actual.items() if slot.set == "policy_generation"})
        tracker.declare(GENERATION_OWNER, generation_elements(self.generation))
        delta = tracker.pending()
        tx = Transaction()
        for chain in generation_chains(self.generation):
            tx.add(*replace_chain(chain).operations)
        tx.add(*element_delta(delta, {decl.name: decl for decl in self.compiler.layout.sets}).operations)
        self.runner.run(tx)
        self.tracker.declare(GENERATION_OWNER, generation_elements(self.generation))
        self.tracker.committed(delta)

    def call(self, place: str, function: Callable[[], T]) -> T:
        return netns.run_in(self.paths[place], function)

    def connect(self, source: str, address: str, port: int) -> socket.socket:
        """A TCP connection that has received the greeting. Raises OSError."""

        def body() -> socket.socket:
            client = socket.create_connection((address, port), timeout=1.0)
            try:
                assert client.recv(100) == b"hello"
            except BaseException:
                client.close()
                raise
            return client

        return self.call(source, body)

    def counter(self, chain: str, comment: str) -> int:
        """The number of packets one commented rule has counted."""
        text = _run("ip", "netns", "exec", self._names["node"], "nft", "list", "chain", "inet", "fairway", chain)
        line = next(line for line in text.splitlines() if f'comment "{comment}"' in line)
        return int(line.split("counter packets ")[1].split()[0])

    def conntrack(self) -> str:
        return self.call("node", lambda: Path("/proc/thread-self/net/nf_conntrack").read_text())

    def leaks(self) -> list[str]:
        text = _run("ip", "netns", "exec", self._names["node"], "nft", "list", "chain", "inet", "vips", "leak")
        return [line for line in text.splitlines() if "counter" in line and "packets 0" not in line]


def _configure_router() -> None:
    for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", name).write_text("1")
    for name in ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"):
        Path("/proc/sys/net", name).write_text("0")


def _pod(name: str, **more: str) -> Pod:
    namespace, labels, http = PODS[name]
    ips = (ADDRESS[4][name], ADDRESS[6][name])
    return Pod(Meta(name, namespace, {**labels, **more}), ips, (PodPort("http", http),), node_name="here", phase="Running")


def _node() -> Node:
    return Node(Meta("here"), (ADDRESS[4]["node"], ADDRESS[6]["node"]))


@pytest.fixture(scope="module")
def built() -> Iterator[Lab]:
    lab = Lab()
    try:
        lab.build()
        yield lab
        assert not lab.leaks()
    finally:
        lab.remove()


@pytest.fixture
def lab(built: Lab) -> Iterator[Lab]:
    yield built
    built.reset()


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def probe(lab: Lab, family: int, source: str, destination: str, what: str) -> bool:
    """Whether `source` gets an answer from `destination`; `what` is "tcp 80", "udp 80" or "icmp"."""
    kind, *port = what.split()
    address = ADDRESS[family].get(destination, destination)
    if kind == "tcp":
        try:
            lab.connect(source, address, int(port[0])).close()
        except OSError:
            return False
        return True
    ask = _ping if kind == "icmp" else lambda ip: _datagram(ip, int(port[0]))
    return lab.call(source, lambda: ask(address))


def _datagram(address: str, port: int) -> bool:
    with closing(socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)) as client:
        client.settimeout(QUIET)
        client.connect((address, port))
        try:
            client.send(b"?")
            return client.recv(100) == b"?"
        except OSError:
            return False


def _ping(address: str) -> bool:
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, answer = (128, 129) if six else (8, 0)
    body = struct.pack("!HH", 4711, 1)
    checksum = 0xFFFF - (((request << 8) + 4711 + 1) % 0xFFFF)  # the kernel fills in its own for IPv6
    with closing(socket.socket(family, socket.SOCK_RAW, protocol)) as client:
        client.settimeout(QUIET)
        client.connect((address, 0))
        try:
            client.send(struct.pack("!BBH", request, 0, checksum) + body)
            while True:
                packet = client.recv(200)
                if packet[0 if six else 20] == answer:
                    return True
        except OSError:
            return False


def policy(spec: str, name: str = "first", namespace: str = "shop") -> str:
    return (
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"
        f"metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )


API = "podSelector: {matchLabels: {app: api}}"
WEB = "podSelector: {matchLabels: {app: web}}"
ALL = "podSelector: {}"
BLOCKS = "{ipBlock: {cidr: 192.0.2.0/24}}, {ipBlock: {cidr: '2001:db8::/32'}}"
HOLES = "{ipBlock: {cidr: 0.0.0.0/0, except: [192.0.2.0/24]}}, {ipBlock: {cidr: '::/0', except: ['2001:db8::/32']}}"

Probes = tuple[tuple[str, str, str, bool], ...]
CASES: dict[str, tuple[str, Probes]] = {
    "default deny, own node exempt, other tenant untouched": (
        policy(f"{ALL}, policyTypes: [Ingress]"),
        (
            ("web-1", "api-1", "tcp 80", False),
            ("outside", "api-1", "tcp 80", False),
            ("web-1", "api-1", "icmp", False),
            ("web-1", "api-1", "udp 80", False),
            ("node", "api-1", "tcp 80", True),
            ("api-1", "node", "icmp", True),
            ("web-1", "api-2", "tcp 80", True),
            ("api-1", "outside", "tcp 80", True),
        ),
    ),
    "egress default deny": (
        policy(f"{WEB}, policyTypes: [Egress]"),
        (
            ("web-1", "api-2", "tcp 80", False),
            ("web-1", "outside", "tcp 80", False),
            ("web-1", "outside", "icmp", False),
            ("outside", "web-1", "tcp 80", True),
            ("api-1", "web-1", "udp 80", True),
        ),
    ),
    "rule without peers but with ports": (
        policy(f"{API}, ingress: [{{ports: [{{port: 80}}]}}]"),
        (
            ("web-1", "api-1", "tcp 80", True),
            ("outside", "api-1", "tcp 80", True),
            ("web-1", "api-1", "tcp 81", False),
            ("web-1", "api-1", "udp 80", False),
            ("outside", "api-1", "icmp", False),
        ),
    ),
    "rule without ports allows ICMP": (
        policy(f"{API}, ingress: [{{from: [{{{WEB}}}]}}]"),
        (
            ("web-1", "api-1", "icmp", True),
            ("web-1", "api-1", "tcp 8080", True),
            ("web-1", "api-1", "udp 81", True),
            ("api-2", "api-1", "icmp", False),
            ("outside", "api-1", "tcp 80", False),
        ),
    ),
    "except, and another policy that opens it again": (
        policy(f"{API}, ingress: [{{from: [{HOLES}]}}]")
        + policy(f"{API}, ingress: [{{from: [{BLOCKS}], ports: [{{port: 81}}]}}]", "second"),
        (
            ("outside", "api-1", "tcp 80", False),
            ("outside", "api-1", "tcp 81", True),
            ("web-1", "api-1", "tcp 80", True),
            ("web-1", "api-1", "icmp", True),
        ),
    ),
    "namespace and pod selector in one entry": (
        policy(
            f"{ALL}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: shop}}}}, {WEB}}}]}}]",
            namespace="payments",
        ),
        (("web-1", "api-2", "tcp 80", True), ("api-1", "api-2", "tcp 80", False), ("outside", "api-2", "tcp 80", False)),
    ),
    "namespace or pod selector in two entries": (
        policy(
            "podSelector: {matchLabels: {app: api}}, ingress: [{from: ["
            "{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: payments}}},"
            "{podSelector: {matchLabels: {tier: edge}}}]}]"
        ),
        (("web-2", "api-1", "tcp 80", True), ("api-2", "api-1", "tcp 80", True), ("web-1", "api-1", "tcp 80", False)),
    ),
    "egress to a port name that differs per peer": (
        policy(f"{WEB}, policyTypes: [Egress], egress: [{{ports: [{{port: http}}]}}]"),
        (
            ("web-1", "api-1", "tcp 80", True),
            ("web-1", "api-1", "tcp 81", False),
            ("web-1", "api-2", "tcp 81", True),
            ("web-1", "api-2", "tcp 80", False),
            ("web-1", "outside", "tcp 80", False),
        ),
    ),
    "a range of ports": (
        policy(f"{API}, ingress: [{{from: [{{namespaceSelector: {{}}}}], ports: [{{port: 81, endPort: 9000}}]}}]"),
        (("web-1", "api-1", "tcp 8080", True), ("web-1", "api-1", "tcp 81", True), ("web-1", "api-1", "tcp 80", False)),
    ),
    "UDP and SCTP are not TCP": (
        policy(f"{API}, ingress: [{{ports: [{{port: 80, protocol: UDP}}, {{port: 81, protocol: SCTP}}]}}]"),
        (
            ("web-1", "api-1", "udp 80", True),
            ("web-1", "api-1", "tcp 80", False),
            ("web-1", "api-1", "tcp 81", False),
            ("web-1", "api-1", "udp 81", False),
        ),
    ),
    "policy types by default": (
        policy(f"{WEB}, egress: [{{to: [{{{API}}}]}}]"),
        (
            ("web-1", "api-1", "tcp 80", True),
            ("web-1", "outside", "tcp 80", False),
            ("api-1", "web-1", "tcp 80", False),
        ),
    ),
    "both ends must agree": (
        policy(f"{WEB}, policyTypes: [Egress], egress: [{{to: [{{{API}}}]}}]")
        + policy(f"{API}, ingress: [{{from: [{{podSelector: {{matchLabels: {{tier: edge}}}}}}]}}]", "second"),
        (
            ("web-2", "api-1", "tcp 80", True),
            ("web-1", "api-1", "tcp 80", False),
            ("api-1", "web-1", "tcp 80", True),
            ("web-2", "outside", "tcp 80", False),
        ),
    ),
    "a block that holds a pod's address": (
        policy(f"{API}, ingress: [{{from: [{{ipBlock: {{cidr: 10.9.0.1/32}}}}, {{ipBlock: {{cidr: 'fd09::1/128'}}}}]}}]"),
        (("web-1", "api-1", "tcp 80", True), ("web-2", "api-1", "tcp 80", False), ("outside", "api-1", "tcp 80", False)),
    ),
    "egress to blocks outside": (
        policy(f"{WEB}, policyTypes: [Egress], egress: [{{to: [{BLOCKS}], ports: [{{port: 80}}, {{port: 81, protocol: UDP}}]}}]"),
        (
            ("web-1", "outside", "tcp 80", True),
            ("web-1", "outside", "udp 81", True),
            ("web-1", "outside", "tcp 81", False),
            ("web-1", "outside", "icmp", False),
            ("web-1", "api-1", "tcp 80", False),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_gets_through(lab: Lab, family: int, name: str) -> None:
    documents, probes = CASES[name]
    lab.apply(documents)
    wrong = [item for item in probes if probe(lab, family, *item[:3]) != item[3]]
    assert not wrong
    for source, destination, what, expected in probes:
        kind, *port = what.split()
        ends = ADDRESS[family][source], ADDRESS[family][destination]
        assert judge(lab.world, Flow(*ends, kind.upper(), int(port[0]) if port else 0)).allowed == expected


def test_the_backend_behind_a_virtual_address_is_judged(lab: Lab, family: int) -> None:
    lab.apply(policy(f"{API}, ingress: [{{from: [{{podSelector: {{matchLabels: {{tier: edge}}}}}}], ports: [{{port: 80}}]}}]"))
    assert probe(lab, family, "web-2", VIP[family], "tcp 8000")
    assert not probe(lab, family, "web-1", VIP[family], "tcp 8000")
    assert probe(lab, family, "api-1", VIP[family], "tcp 8000"), "a pod reaches itself through a service"
    marks = {line.split(" mark=")[1].split()[0] for line in lab.conntrack().splitlines() if "port=8000 " in line}
    assert str(SERVICE_BITS | lab.generation) in marks, "the service's bits and the generation share the mark"


def test_a_label_moves_a_pod(lab: Lab, family: int) -> None:
    lab.apply(policy(f"{API}, ingress: [{{from: [{{podSelector: {{matchLabels: {{tier: edge}}}}}}]}}]"))
    assert not probe(lab, family, "web-1", "api-1", "tcp 80")
    lab.put(_pod("web-1", tier="edge"))
    assert probe(lab, family, "web-1", "api-1", "tcp 80")
    lab.put(_pod("web-1"))
    assert not probe(lab, family, "web-1", "api-1", "tcp 80")


def test_a_bump_cuts_what_is_forbidden_and_nothing_else(lab: Lab, family: int) -> None:
    api = ADDRESS[family]["api-1"]
    with closing(lab.connect("web-1", api, 80)) as denied, closing(lab.connect("web-2", api, 80)) as allowed:
        bumps = lab.bumps
        lab.apply(policy(f"{API}, ingress: [{{from: [{{podSelector: {{matchLabels: {{tier: edge}}}}}}]}}]"))
        assert lab.bumps == bumps + 1
        for _round in range(3):
            allowed.sendall(b"still here")
            assert allowed.recv(100) == b"still here"
        before = lab.counter("policy_deny_ingress", "denied-ingress")
        denied.sendall(b"and I")
        with pytest.raises(ConnectionError):
            denied.recv(100)
        assert lab.counter("policy_deny_ingress", "denied-ingress") == before + 1


def test_the_reply_direction_is_cut_too(lab: Lab, family: int) -> None:
    """The server speaks: its packets are replies, judged as the connection's beginning would be."""
    listener = lab.call("api-1", lambda: socket.create_server((ADDRESS[family]["api-1"], 9999), family=_af(family)))
    listener.settimeout(1.0)

    def connect(place: str) -> tuple[socket.socket, socket.socket]:
        client = lab.call(place, lambda: socket.create_connection((ADDRESS[family]["api-1"], 9999), timeout=QUIET))
        return client, listener.accept()[0]

    with closing(listener):
        (denied, denied_server), (allowed, allowed_server) = connect("web-1"), connect("web-2")
        with closing(denied), closing(denied_server), closing(allowed), closing(allowed_server):
            lab.apply(policy(f"{WEB}, policyTypes: [Egress], egress: [{{to: [{{ipBlock: {{cidr: 203.0.113.0/24}}}}]}}]"))
            lab.put(_pod("web-2", app="exempt"))
            denied_server.sendall(b"secret")
            with pytest.raises(TimeoutError):
                denied.recv(100)
            with pytest.raises(ConnectionError):
                denied_server.sendall(b"more")
                denied_server.recv(100)
            allowed_server.sendall(b"welcome")
            assert allowed.recv(100) == b"welcome"


def _af(family: int) -> int:
    return socket.AF_INET6 if family == 6 else socket.AF_INET


def test_agreement_with_the_evaluator_on_random_policies(lab: Lab, family: int) -> None:
    dice = random.Random(20 + family)
    places = [*PODS, "outside"]
    for _round in range(20):
        lab.apply("".join(policy(_random_spec(dice), f"r{n}", dice.choice(("shop", "payments"))) for n in range(3)))
        for _probe in range(12):
            source, destination = dice.sample(places, 2)
            kind, port = dice.choice(("tcp", "tcp", "udp")), dice.choice(PORTS)
            flow = Flow(ADDRESS[family][source], ADDRESS[family][destination], kind.upper(), port)
            passed = probe(lab, family, source, destination, f"{kind} {port}")
            assert passed == judge(lab.world, flow).allowed, (flow, lab.world.policies())


def _random_spec(dice: random.Random) -> str:
    subject = dice.choice((API, WEB, ALL))
    directions = dice.sample((("ingress", "Ingress", "from"), ("egress", "Egress", "to")), dice.randint(1, 2))
    parts = [f"policyTypes: [{', '.join(kind for _rules, kind, _word in directions)}]"]
    for rules, _kind, word in directions:
        peers = ["{namespaceSelector: {}}", f"{{{API}}}", f"{{{WEB}}}", f"{{namespaceSelector: {{}}, {API}}}", BLOCKS, HOLES]
        chosen = ", ".join(dice.sample(peers, dice.randint(0, 2)))
        ports = ("{port: 80}", "{port: http}", "{port: 81, endPort: 9000}", "{protocol: UDP}")
        parts.append(f"{rules}: [{{{word}: [{chosen}], ports: [{', '.join(dice.sample(ports, dice.randint(0, 2)))}]}}]")
    return f"{subject}, {', '.join(parts)}"


def test_packets_of_no_connection_are_dropped_at_pods_only(lab: Lab, family: int) -> None:
    """A reset that belongs to nothing is invalid to conntrack; between two strangers it is none of our business."""

    def listen() -> socket.socket:
        sniffer = socket.socket(_af(family), socket.SOCK_RAW, socket.IPPROTO_TCP)
        sniffer.settimeout(QUIET)
        return sniffer

    def send(address: str) -> None:
        with closing(socket.socket(_af(family), socket.SOCK_RAW, socket.IPPROTO_TCP)) as raw:
            if family == 6:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)
            header = struct.pack("!HHIIBBH", 1234, 4321, 1, 0, 5 << 4, 0x04, 512)
            total = _checksum(header + b"\0\0\0\0", ADDRESS[4]["outside"], address) if family == 4 else 0
            raw.sendto(header + struct.pack("!HH", total, 0), (address, 0))

    before = lab.counter("policy_invalid", "invalid-to-pod")
    for place, arrives in (("foreign", True), ("api-1", False)):
        with closing(lab.call(place, listen)) as sniffer:
            lab.call("outside", lambda place=place: send(ADDRESS[family][place]))
            if arrives:
                assert sniffer.recv(100)[-20:-16] == struct.pack("!HH", 1234, 4321)
            else:
                with pytest.raises(TimeoutError):
                    sniffer.recv(100)
    assert lab.counter("policy_invalid", "invalid-to-pod") == before + 1


def _checksum(segment: bytes, source: str, destination: str) -> int:
    pseudo = socket.inet_aton(source) + socket.inet_aton(destination) + struct.pack("!HH", 6, len(segment))
    words = struct.unpack(f"!{(len(pseudo) + len(segment)) // 2}H", pseudo + segment)
    return 0xFFFF - (sum(words) % 0xFFFF)


def test_additions_do_not_bump(lab: Lab) -> None:
    lab.apply(policy(f"{API}, ingress: [{{ports: [{{port: 80}}]}}]"))
    bumps = lab.bumps
    lab.apply(policy(f"{API}, ingress: [{{ports: [{{port: 80}}, {{port: 81}}]}}]"))
    assert lab.bumps == bumps
    lab.put(Pod(Meta("late", "other", {"app": "web"}), ("10.9.0.77",), phase="Running"))
    assert lab.bumps == bumps
    lab.put(Pod(Meta("late", "shop", {"app": "api"}), ("10.9.0.78",), phase="Running"))
    assert lab.bumps == bumps + 1, "a flow sent ahead to the address of an isolated pod must be judged again"


def test_the_kernel_holds_exactly_what_was_compiled(lab: Lab) -> None:
    for documents, _probes in CASES.values():
        lab.apply(documents)
        state = lab.runner.read(INET, lab.compiler.layout)
        assert state is not None
        assert dict(state.elements) == dict(lab.tracker.actual)
        assert read_generation(state.elements) == lab.generation
        lab.reset()
