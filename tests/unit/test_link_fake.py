"""What the fake has beyond the contract: faults and drift on request."""

from __future__ import annotations

import errno

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.link.fake import FakeLinks
from fairway_kernel.link.objects import Bridge, Veth

BRIDGE = Bridge("fw-net", "02:fa:00:00:00:01")


def veth(path: str) -> Veth:
    return Veth("fwb1", path, "eth0", "0a:58:0a:f4:00:05", ("10.244.0.5",), 1450, "fairway", BRIDGE.mac, BRIDGE.name)


@pytest.fixture
def links() -> FakeLinks:
    made = FakeLinks(mtu=9000)
    made.ensure_bridge(BRIDGE)
    return made


def test_a_fault_on_request_leaves_nothing_and_happens_once(links: FakeLinks) -> None:
    one = veth(links.add_namespace("/ns/a"))
    links.fail_next = errno.ENOMEM
    with pytest.raises(KernelError) as caught:
        links.attach(one)
    assert caught.value.errno == errno.ENOMEM
    assert links.read().veths == ()
    links.attach(one)
    assert links.inside("/ns/a", "eth0").up


def test_a_dead_container_takes_its_link_but_not_the_bridge_routes(links: FakeLinks) -> None:
    one = veth(links.add_namespace("/ns/a"))
    links.attach(one)
    links.remove_namespace("/ns/a")
    assert links.read().veths == ()
    assert links.read().routes == (("10.244.0.5", "fw-net"),)
    links.detach(one.host_ifname, one.ips)
    assert links.read().routes == ()


def test_a_lost_bridge_takes_its_routes_and_frees_its_ports(links: FakeLinks) -> None:
    links.attach(veth(links.add_namespace("/ns/a")))
    links.lose("fw-net")
    found = links.read()
    assert (found.bridges, found.routes, found.neighbours) == (frozenset(), (), ())
    assert found.veths[0].master is None


def test_calls_are_recorded_in_order(links: FakeLinks) -> None:
    links.attach(veth(links.add_namespace("/ns/a")))
    links.detach("fwb1", ())
    assert links.calls == [("ensure_bridge", "fw-net"), ("prepare", "fwb1"), ("connect", "fwb1"), ("detach", "fwb1")]
    assert links.default_mtu() == 9000
