"""Routes to other nodes' containers, in the kernel: what is installed, what is left alone, what is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.monitor import LinkMonitor

pytestmark = pytest.mark.needs_root
NEAR = {"10.1.0.0/24": "192.0.2.2", "fd01::/64": "fd00:2::2"}


def ip(namespace: str, *words: str) -> str:
    done = subprocess.run(["ip", "-n", Path(namespace).name, *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout


def routes(namespace: str) -> dict[str, tuple[str, str]]:
    """Network to gateway and protocol, of the main tables."""
    listed: list[dict[str, Any]] = [
        item for family in "46" for item in json.loads(ip(namespace, "-j", "-N", f"-{family}", "route", "show") or "[]")
    ]
    return {item["dst"]: (item.get("gateway", ""), item.get("protocol", "boot")) for item in listed}


def ours(namespace: str) -> dict[str, str]:
    return {cidr: gateway for cidr, (gateway, protocol) in routes(namespace).items() if protocol == "157"}


@pytest.fixture
def node(namespaces: Callable[[str], str]) -> str:
    """A node with one link, 192.0.2.1 and fd00:2::1."""
    path = namespaces("node")
    for words in (
        "link set lo up",
        "link add net0 type veth peer name net1",
        "link set net0 up",
        "link set net1 up",
        "addr add 192.0.2.1/24 dev net0",
        "addr add fd00:2::1/64 dev net0 nodad",
    ):
        ip(path, *words.split())
    return path


@pytest.fixture
def links(node: str) -> Iterator[KernelLinks]:
    made = KernelLinks(node)
    yield made
    made.close()


def test_routes_are_what_is_wanted_and_a_second_look_changes_nothing(node: str, links: KernelLinks) -> None:
    assert links.ensure_peer_routes(NEAR).changed == 2
    assert ours(node) == NEAR
    assert (again := links.ensure_peer_routes(NEAR)).changed == 0
    assert not again.refused
    moved = {"10.1.0.0/24": "192.0.2.3", "10.2.0.0/24": "192.0.2.2"}
    links.ensure_peer_routes({**moved, "10.9.0.7/32": "192.0.2.2"})
    assert ours(node) == {**moved, "10.9.0.7": "192.0.2.2"}
    assert links.read().routes == (), "a way to another node is no container's route"
    links.ensure_service_routes(["10.96.0.0/16"])
    assert "10.2.0.0/24" in ours(node), "routes to virtual IPs are another matter"
    links.ensure_peer_routes({})
    assert ours(node) == {"10.96.0.0/16": ""}


@pytest.mark.parametrize(
    ("gateway", "why"),
    [
        ("198.51.100.9", "no way"),
        ("192.0.2.1", "address of this node"),
        ("203.0.113.5", "not on a link"),
        ("127.0.0.5", "address of this node"),
        ("fd00:9::9", "no way"),
    ],
)
def test_a_gateway_that_is_not_on_a_link_is_refused(node: str, links: KernelLinks, gateway: str, why: str) -> None:
    ip(node, "route", "add", "203.0.113.0/24", "via", "192.0.2.9")
    far = "fd05::/64" if ":" in gateway else "10.5.0.0/24"
    done = links.ensure_peer_routes({**NEAR, far: gateway})
    assert list(done.refused) == [far]
    assert why in done.refused[far]
    assert ours(node) == NEAR, "one bad gateway keeps no other node from its route"


def test_a_route_of_somebody_else_stays(node: str, links: KernelLinks) -> None:
    ip(node, "route", "add", "10.1.0.0/24", "via", "192.0.2.2")
    ip(node, "route", "add", "10.2.0.0/24", "via", "192.0.2.9")
    before = routes(node)
    done = links.ensure_peer_routes({"10.1.0.0/24": "192.0.2.2", "10.2.0.0/24": "192.0.2.2"})
    assert routes(node) == before
    assert done.refused == {"10.2.0.0/24": "another program's route leads to 192.0.2.9"}
    ip(node, "route", "del", "10.2.0.0/24")
    assert not links.ensure_peer_routes({"10.1.0.0/24": "192.0.2.2", "10.2.0.0/24": "192.0.2.2"}).refused
    links.ensure_peer_routes({})
    assert routes(node).keys() == before.keys() - {"10.2.0.0/24"}, "ours is gone, theirs is not"


def test_a_lost_route_is_told_and_put_back(node: str, links: KernelLinks) -> None:
    links.ensure_peer_routes(NEAR)
    monitor = LinkMonitor(node)
    try:
        ip(node, "route", "del", "10.1.0.0/24")
        assert monitor.drain() == {"route 10.1.0.0"}
    finally:
        monitor.close()
    assert links.ensure_peer_routes(NEAR).changed == 1
    assert ours(node) == NEAR
