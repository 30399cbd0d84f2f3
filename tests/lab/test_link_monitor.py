"""Notifications: what of ours may have changed is told, what is not ours is not."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from fairway_kernel import netns
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.monitor import LinkMonitor
from fairway_kernel.link.objects import Bridge, Veth
from fairway_kernel.link.rtnl import (
    IFLA_IFNAME,
    IFLA_MASTER,
    LOOPBACK_INDEX,
    RT_SCOPE_UNIVERSE,
    add_address,
    delete_address,
    delete_host_route,
    delete_link,
    delete_neighbour,
    set_link,
)
from fairway_kernel.netlink import NetlinkSocket, Request, attr_text, attr_u32

pytestmark = pytest.mark.needs_root

BRIDGE = Bridge("fw-net", "02:fa:00:00:00:01", ("169.254.1.1/32", "fe80::1/64"))


@pytest.fixture
def links(namespace: str) -> Iterator[KernelLinks]:
    made = KernelLinks(namespace)
    made.ensure_loopback(())
    yield made
    made.close()


@pytest.fixture
def monitor(namespace: str, links: KernelLinks) -> Iterator[LinkMonitor]:
    links.ensure_bridge(BRIDGE)
    made = LinkMonitor(namespace)
    quiet(made)
    assert made.drain() == set()
    yield made
    made.close()


def quiet(monitor: LinkMonitor) -> None:
    """Let the kernel finish what it does later (carrier, IPv6), so that what is told next has one cause."""
    while select.select([monitor], [], [], 0.05)[0]:
        monitor.drain()


def change(path: str, *requests: Request) -> None:
    channel = NetlinkSocket(path)
    channel.transact(requests)
    channel.close()


def veth(path: str) -> Veth:
    return Veth("fwb1", path, "eth0", "0a:58:0a:f4:00:05", ("10.244.0.5", "fd00::5"), 1500, "fairway", BRIDGE.mac, BRIDGE.name)


def test_our_own_attachment_is_seen(links: KernelLinks, monitor: LinkMonitor, namespaces: Callable[[str], str]) -> None:
    links.attach(veth(namespaces("c")))
    assert select.select([monitor], [], [], 2)[0]
    assert {"fwb1", "fw-net", "route 10.244.0.5", "route fd00::5"} <= monitor.drain()
    quiet(monitor)
    assert monitor.drain() == set()


def test_foreign_changes_to_ours_are_told(
    namespace: str, links: KernelLinks, monitor: LinkMonitor, namespaces: Callable[[str], str]
) -> None:
    links.attach(veth(namespaces("c")))
    links.ensure_loopback(["169.254.20.10", "fd00::53"])
    quiet(monitor)
    bridge = netns.run_in(namespace, lambda: socket.if_nametoindex("fw-net"))
    change(namespace, delete_host_route("10.244.0.5"))
    assert monitor.drain() == {"route 10.244.0.5"}
    change(namespace, delete_neighbour("fd00::5", bridge))
    assert monitor.drain() == {"fw-net"}
    change(namespace, delete_address(LOOPBACK_INDEX, "169.254.20.10", 32))
    assert monitor.drain() == {"lo:fairway"}
    change(namespace, delete_address(LOOPBACK_INDEX, "fd00::53", 128))
    assert monitor.drain() == {"lo:fairway"}
    change(namespace, set_link(bridge, "down", up=False))
    assert "fw-net" in monitor.drain()
    change(namespace, delete_link("fwb1"))
    assert "fwb1" in monitor.drain()


def test_a_renamed_bridge_is_told_by_its_old_name(namespace: str, monitor: LinkMonitor) -> None:
    bridge = netns.run_in(namespace, lambda: socket.if_nametoindex("fw-net"))
    change(namespace, set_link(bridge, "down", up=False), set_link(bridge, "rename", attr_text(IFLA_IFNAME, "stolen")))
    assert "fw-net" in monitor.drain()


def test_what_is_not_ours_is_not_told(namespace: str, links: KernelLinks, monitor: LinkMonitor) -> None:
    links.ensure_bridge(Bridge("docker0", "02:00:00:00:00:07", ("172.17.0.1/16",)))
    change(namespace, add_address(LOOPBACK_INDEX, "192.0.2.1", 32, RT_SCOPE_UNIVERSE, "foreign address"))
    links.delete_bridge("docker0")
    assert monitor.drain() == set()


def test_overflow_means_everything(namespace: str, monitor: LinkMonitor) -> None:
    monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    for number in range(60):
        change(namespace, add_address(LOOPBACK_INDEX, f"192.0.2.{number}", 32, RT_SCOPE_UNIVERSE, "flood"))
    assert monitor.drain() == {"all"}


def test_a_port_that_left_its_bridge_is_still_watched(
    namespace: str, links: KernelLinks, monitor: LinkMonitor, namespaces: Callable[[str], str]
) -> None:
    links.attach(veth(namespaces("c")))
    port = netns.run_in(namespace, lambda: socket.if_nametoindex("fwb1"))
    quiet(monitor)
    change(namespace, set_link(port, "leave the bridge", attr_u32(IFLA_MASTER, 0)))
    quiet(monitor)
    change(namespace, add_address(port, "192.0.2.9", 32, RT_SCOPE_UNIVERSE, "foreign address"))
    assert monitor.drain() == {"fwb1"}
