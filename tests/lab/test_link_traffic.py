"""Attachments under real packets: both modes, both families, every pair; and what must not get through."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fairway_core.errors import KernelError
from fairway_kernel import netns
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import Bridge, Veth
from fairway_kernel.link.rtnl import LOOPBACK_INDEX, RT_SCOPE_UNIVERSE, add_address, default_route, host_route, neighbour
from fairway_kernel.netlink import NetlinkSocket, Request
from fairway_kernel.sysctl import Sysctls

pytestmark = pytest.mark.needs_root

BRIDGE = Bridge("fw-net", "02:fa:00:00:00:01", ("169.254.1.1/32", "fe80::1/64"), 1450)
NODE4, NODE6 = "192.0.2.1", "2001:db8::1"
REDIRECT4, REDIRECT6 = 5, 137
BRIDGE_CALLS = ("iptables", "ip6tables", "arptables")


def veth(path: str, number: int, mode: str, **changes: object) -> Veth:
    bridged = mode == "bridge"
    made = Veth(
        host_ifname=f"fw{'b' if bridged else 'r'}{number:05d}",
        netns=path,
        ifname="eth0",
        mac=f"0a:58:0a:f4:00:{number:02x}",
        ips=(f"10.244.0.{number}", f"fd00:10:244::{number:x}"),
        mtu=1450,
        alias=f"fairway network=net pod=shop/web-{number} id=c{number}",
        host_mac=BRIDGE.mac,
        master=BRIDGE.name if bridged else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@dataclass
class Node:
    """A node namespace with its manager; containers are attached on demand."""

    path: str
    mode: str
    links: KernelLinks
    make: Callable[[str], str]

    def container(self, number: int, **changes: object) -> Veth:
        made = veth(self.make(f"c{number}"), number, self.mode, **changes)
        self.links.attach(made)
        return made


@pytest.fixture(params=["bridge", "routed", "routed+br_netfilter"])
def node(request: pytest.FixtureRequest, namespaces: Callable[[str], str]) -> Iterator[Node]:
    path = namespaces("node")
    settings = Sysctls(path)
    calls = "1" if "br_netfilter" in request.param else "0"
    settings.ensure({"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"})
    settings.ensure({f"net.bridge.bridge-nf-call-{kind}": calls for kind in BRIDGE_CALLS})
    links = KernelLinks(path)
    links.ensure_bridge(BRIDGE)
    links.ensure_loopback((NODE4, NODE6))
    # An ordinary address of the node, as a source for what it sends; those of ensure_loopback are never chosen.
    ordinary = add_address(LOOPBACK_INDEX, "192.0.2.2", 32, RT_SCOPE_UNIVERSE, "node address")
    netns.run_in(path, lambda: _transact([ordinary]))
    yield Node(path, request.param.partition("+")[0], links, namespaces)
    links.close()


def _transact(requests: list[Request]) -> None:
    channel = NetlinkSocket()
    channel.transact(requests)
    channel.close()


def ping_here(target: str, source: str = "", seconds: float = 2.0) -> tuple[bool, set[int]]:
    """One echo from the calling thread's namespace: (answered, ICMP types seen meanwhile)."""
    v6 = ":" in target
    kind, reply = (128, 129) if v6 else (8, 0)
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    seen: set[int] = set()
    with socket.socket(family, socket.SOCK_RAW, protocol) as probe:
        probe.settimeout(seconds)
        if source:
            probe.bind((source, 0))
        packet = struct.pack(">BBHHH", kind, 0, 0, os.getpid() & 0xFFFF, 1)
        if not v6:
            total = sum(struct.unpack(">4H", packet))
            packet = packet[:2] + struct.pack(">H", ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF) + packet[4:]
        try:
            probe.sendto(packet, (target, 0))
            while True:
                data, sender = probe.recvfrom(2048)
                found = data[0] if v6 else data[(data[0] & 15) * 4]
                seen.add(found)
                if found == reply and sender[0] == target:
                    return True, seen
        except OSError:
            return False, seen


def ping(path: str, target: str, source: str = "", seconds: float = 2.0) -> bool:
    return netns.run_in(path, lambda: ping_here(target, source, seconds))[0]


def test_everybody_reaches_everybody_with_the_first_packet(node: Node) -> None:
    one, two = node.container(5), node.container(6)
    failed = [
        (source.host_ifname, target)
        for (source, other), place in itertools.product(((one, two), (two, one)), (0, 1))
        for target in (other.ips[place], source.ips[place], (NODE4, NODE6)[place])
        if not ping(source.netns, target)
    ]
    assert failed == []
    assert [ip for item in (one, two) for ip in item.ips if not ping(node.path, ip)] == []


def test_container_is_heard_at_once_in_both_families(node: Node) -> None:
    for number in (5, 6, 7):
        one = node.container(number)
        assert all(ping(one.netns, target, seconds=0.5) for target in (NODE6, NODE4))


def test_no_redirect_reaches_or_moves_a_container(node: Node) -> None:
    one, two = node.container(5), node.container(6)

    def many() -> list[tuple[bool, set[int]]]:
        return [ping_here(target) for target in two.ips for _ in range(6)]

    results = netns.run_in(one.netns, many)
    assert all(answered for answered, _ in results)
    assert REDIRECT4 not in set().union(*(seen for _, seen in results))
    assert Sysctls(one.netns).read("net.ipv6.conf.eth0.accept_redirects") == "0"


def test_address_reused_by_another_container_answers_at_once(node: Node) -> None:
    one, other = node.container(5), node.container(6)
    assert ping(other.netns, one.ips[0])
    node.links.detach(one.host_ifname, one.ips)
    assert not ping(other.netns, one.ips[0], seconds=0.2)
    second = node.container(5, host_ifname=one.host_ifname[:3] + "again")
    assert second.netns != one.netns
    assert all(ping(other.netns, ip, seconds=0.5) for ip in second.ips)


def test_second_interface_answers_by_itself(node: Node) -> None:
    # Strict reverse path filtering drops an answer that comes in by the wrong interface.
    one = node.container(5)
    second = veth(one.netns, 6, node.mode, ifname="net1")
    node.links.attach(second)
    if node.mode == "routed":
        Sysctls(node.path).ensure({"net.ipv4.conf.all.rp_filter": "1"})
    assert all(ping(node.path, ip) for ip in (*one.ips, *second.ips))


def test_ipv6_works_where_containers_have_it_off_by_default(node: Node) -> None:
    path = node.make("no6")
    Sysctls(path).ensure({"net.ipv6.conf.default.disable_ipv6": "1", "net.ipv6.conf.default.accept_dad": "1"})
    one = veth(path, 5, node.mode)
    node.links.attach(one)
    assert ping(node.path, one.ips[1], seconds=0.5)
    assert Sysctls(path).read("net.ipv6.conf.eth0.accept_ra") == "0"


def test_ipv6_works_where_the_node_has_it_off_by_default(node: Node) -> None:
    Sysctls(node.path).ensure({"net.ipv6.conf.default.disable_ipv6": "1"})
    one = node.container(5)
    assert all(ping(node.path, ip, seconds=0.5) for ip in one.ips)


@pytest.mark.parametrize("changes", [{"alias": "x" * 300}, {"ips": ("10.244.0.5", "ff02::5")}, {"mtu": 70_000}])
def test_failure_in_the_middle_leaves_nothing(node: Node, changes: dict[str, object]) -> None:
    path = node.make("broken")
    with pytest.raises(KernelError):
        node.links.attach(veth(path, 5, node.mode, **changes))
    found = node.links.read()
    assert (found.veths, found.routes, found.neighbours) == ((), (), ())
    assert not node.links.inside(path, "eth0").exists
    node.links.attach(veth(path, 5, node.mode))
    assert ping(node.path, "10.244.0.5")


def test_detach_after_the_container_died(node: Node) -> None:
    one = node.container(5)
    netns.delete(Path(one.netns).name)
    deadline = time.monotonic() + 5
    while node.links.read().veths and time.monotonic() < deadline:
        time.sleep(0.01)
    node.links.detach(one.host_ifname, one.ips)
    found = node.links.read()
    assert (found.veths, found.routes, found.neighbours) == ((), (), ())


def test_repaired_node_side_carries_packets(node: Node) -> None:
    one = node.container(5)
    if node.mode == "bridge":
        node.links.delete_bridge(BRIDGE.name)
        node.links.ensure_bridge(BRIDGE)
    else:
        node.links.detach("fwr-no-such", one.ips)
    assert not ping(node.path, one.ips[0], seconds=0.1)
    node.links.ensure_node_side(one)
    assert all(ping(node.path, ip, seconds=0.5) for ip in one.ips)


@pytest.mark.parametrize("node", ["bridge"], indirect=True)
def test_frames_to_a_neighbour_do_not_pass_the_node_by(node: Node) -> None:
    one, two = node.container(5), node.container(6)
    index = netns.run_in(one.netns, lambda: socket.if_nametoindex("eth0"))
    shortcut = [request for ip in two.ips for request in (host_route(ip, index), neighbour(ip, two.mac, index))]
    assert ping(one.netns, two.ips[0])
    netns.run_in(one.netns, lambda: _transact(shortcut))
    assert not any(ping(one.netns, ip, seconds=0.2) for ip in two.ips)


def test_node_without_default_route_reaches_the_rules_for_virtual_ips(node: Node) -> None:
    def errors() -> list[int | None]:
        found: list[int | None] = []
        for family, target in ((socket.AF_INET, "10.96.0.1"), (socket.AF_INET6, "fd00:10:96::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect((target, 53))
                    found.append(None)
                except OSError as error:
                    found.append(error.errno)
        return found

    assert netns.run_in(node.path, errors) == [errno.ENETUNREACH] * 2
    node.links.ensure_service_routes(("10.96.0.0/16", "fd00:10:96::/112"))
    node.links.ensure_service_routes(("10.96.0.0/16", "fd00:10:96::/112"))
    assert netns.run_in(node.path, errors) == [None, None]
    node.links.ensure_service_routes(())
    assert netns.run_in(node.path, errors) == [errno.ENETUNREACH] * 2


@pytest.mark.parametrize("node", ["bridge"], indirect=True)
def test_many_at_once_from_many_threads_leak_no_descriptor(node: Node) -> None:
    veths = [veth(node.make(f"p{number}"), number, node.mode) for number in range(5, 21)]

    def cycle(item: Veth) -> bool:
        node.links.attach(item)
        answered = ping(item.netns, NODE4)
        node.links.detach(item.host_ifname, item.ips)
        return answered and not node.links.inside(item.netns, item.ifname).exists

    def open_files() -> set[str]:
        # Sockets that the pool keeps are bounded by the number of threads; everything else must be closed again.
        links = (str(item.readlink()) for item in Path("/proc/self/fd").iterdir() if item.is_symlink())
        return {link for link in links if "net:[" in link or "netns" in link}

    before = open_files()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(cycle, veths * 2))
    assert open_files() == before
    found = node.links.read()
    assert (found.veths, found.routes, found.neighbours) == ((), (), ())


def test_mtu_is_that_of_the_best_default_route(namespace: str) -> None:
    links = KernelLinks(namespace)
    links.ensure_loopback(())
    for name, mtu in (("up4", 1400), ("up6", 1380)):
        links.ensure_bridge(Bridge(name, "02:00:00:00:00:07", (), mtu))
    index = netns.run_in(namespace, lambda: {name: socket.if_nametoindex(name) for name in ("up4", "up6")})
    assert links.default_mtu() == 1500
    Sysctls(namespace).ensure({"net.ipv6.conf.up6.disable_ipv6": "0"})
    netns.run_in(namespace, lambda: _transact([default_route("fe80::7", index["up6"])]))
    assert links.default_mtu() == 1380
    netns.run_in(namespace, lambda: _transact([default_route("192.0.2.9", index["up4"])]))
    assert links.default_mtu() == 1400
    links.close()
