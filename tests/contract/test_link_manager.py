"""What every LinkManager promises, held against the fake and the kernel alike."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.link.fake import FakeLinks
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6, Bridge, LinkManager, Veth

BRIDGE = Bridge("fw-net", "02:fa:00:00:00:01", ("169.254.1.1/32", "fe80::1/64"), 1450)


@dataclass(frozen=True)
class Stage:
    """A manager, its node, and how to make containers and foreign interfaces."""

    links: LinkManager
    node: str
    container: Callable[[str], str]
    occupy: Callable[[str, str], None]


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.needs_root)])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    if request.param == "fake":
        fake = FakeLinks(own_namespace="/ns/node")
        yield Stage(
            fake, "/ns/node", lambda hint: fake.add_namespace(f"/ns/{hint}"), lambda path, name: _foreign(fake, path, name)
        )
        return
    namespaces = request.getfixturevalue("namespaces")
    node = namespaces("node")
    real = KernelLinks(node)
    yield Stage(real, node, namespaces, _bridge_named)
    real.close()


def _foreign(fake: FakeLinks, path: str, name: str) -> None:
    fake.add_namespace(path, name)


def _bridge_named(path: str, name: str) -> None:
    inside = KernelLinks(path)
    inside.ensure_bridge(Bridge(name, "02:00:00:00:00:99"))
    inside.close()


def veth(netns: str, number: int, bridged: bool = True, **changes: object) -> Veth:
    made = Veth(
        host_ifname=f"fw{'b' if bridged else 'r'}{number:05d}",
        netns=netns,
        ifname="eth0",
        mac=f"0a:58:0a:f4:00:{number:02x}",
        ips=(f"10.244.0.{number}", f"fd00:10:244::{number:x}"),
        mtu=1450,
        alias=f"fairway network=net pod=shop/web-{number} id=c{number}",
        host_mac=BRIDGE.mac,
        master=BRIDGE.name if bridged else None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("bridged", [True, False])
def test_nothing_leads_to_what_is_prepared_until_it_is_connected(stage: Stage, bridged: bool) -> None:
    stage.links.ensure_bridge(BRIDGE)
    one = veth(stage.container("a"), 5, bridged)
    prepared = stage.links.prepare(one)
    before = stage.links.read()
    assert [(item.host_ifname, item.up) for item in before.veths] == [(one.host_ifname, False)]
    assert (before.routes, before.neighbours) == ((), ())
    prepared.connect()
    prepared.close()
    prepared.close()
    after = stage.links.read()
    assert [item.up for item in after.veths] == [True]
    assert [address for address, _ in after.routes] == sorted(one.ips)


def test_connecting_what_has_gone_is_an_error(stage: Stage) -> None:
    one = veth(stage.container("a"), 5, bridged=False)
    prepared = stage.links.prepare(one)
    stage.links.detach(one.host_ifname, one.ips)
    with pytest.raises(KernelError) as caught:
        prepared.connect()
    assert caught.value.errno == errno.ENODEV
    prepared.close()


@pytest.mark.parametrize("bridged", [True, False])
def test_attach_makes_both_sides(stage: Stage, bridged: bool) -> None:
    stage.links.ensure_bridge(BRIDGE)
    one = veth(stage.container("a"), 5, bridged)
    stage.links.attach(one)
    inside = stage.links.inside(one.netns, "eth0")
    assert (inside.exists, inside.up, inside.mac, inside.mtu) == (True, True, one.mac, 1450)
    assert inside.ips == one.ips
    assert inside.default_routes == (GATEWAY4, GATEWAY6)
    node = stage.links.read()
    (found,) = node.veths
    assert (found.host_ifname, found.alias, found.master, found.up, found.mtu) == (
        one.host_ifname, one.alias, one.master, True, 1450,
    )  # fmt: skip
    assert inside.peer_ifindex == found.ifindex
    if not bridged:
        assert found.mac == one.host_mac
    device = BRIDGE.name if bridged else one.host_ifname
    assert node.routes == tuple((ip, device) for ip in one.ips)
    assert node.neighbours == tuple((ip, one.mac, device) for ip in one.ips)
    assert node.bridges == {BRIDGE.name}


def test_one_family_gives_one_gateway(stage: Stage) -> None:
    path = stage.container("a")
    stage.links.attach(veth(path, 5, bridged=False, ips=("10.244.0.5",)))
    assert stage.links.inside(path, "eth0").default_routes == (GATEWAY4,)


@pytest.mark.parametrize("bridged", [True, False])
def test_detach_leaves_nothing_and_may_be_repeated(stage: Stage, bridged: bool) -> None:
    stage.links.ensure_bridge(BRIDGE)
    one, two = veth(stage.container("a"), 5, bridged), veth(stage.container("b"), 6, bridged)
    for item in (one, two):
        stage.links.attach(item)
    for _ in range(2):
        stage.links.detach(one.host_ifname, one.ips)
        assert not stage.links.inside(one.netns, "eth0").exists
        node = stage.links.read()
        assert [item.host_ifname for item in node.veths] == [two.host_ifname]
        assert {address for address, _ in node.routes} == set(two.ips)
        assert {address for address, _, _ in node.neighbours} == set(two.ips)
    stage.links.attach(one)
    assert stage.links.inside(one.netns, "eth0").exists


def test_detach_without_addresses_removes_the_link(stage: Stage) -> None:
    one = veth(stage.container("a"), 5, bridged=False)
    stage.links.attach(one)
    stage.links.detach(one.host_ifname, ())
    assert stage.links.read().veths == ()
    assert stage.links.read().routes == ()


def test_concurrent_detach_of_many(stage: Stage) -> None:
    stage.links.ensure_bridge(BRIDGE)
    path = stage.container("many")
    veths = [veth(path, number, ifname=f"eth{number}") for number in range(1, 13)]
    for item in veths:
        stage.links.attach(item)
    assert len(stage.links.read().veths) == 12
    gone: list[bool] = []

    def remove(item: Veth) -> None:
        stage.links.detach(item.host_ifname, item.ips)
        gone.append(not stage.links.inside(path, item.ifname).exists)

    threads = [threading.Thread(target=remove, args=(item,)) for item in veths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gone == [True] * 12
    node = stage.links.read()
    assert (node.veths, node.routes, node.neighbours) == ((), (), ())


def test_taken_name_inside_is_refused_and_leaves_nothing(stage: Stage) -> None:
    path = stage.container("a")
    stage.occupy(path, "eth0")
    with pytest.raises(KernelError) as caught:
        stage.links.attach(veth(path, 5, bridged=False))
    assert caught.value.errno == errno.EEXIST
    node = stage.links.read()
    assert (node.veths, node.routes, node.neighbours) == ((), (), ())
    assert stage.links.inside(path, "eth0").exists


def test_live_interface_under_another_host_name_is_refused(stage: Stage) -> None:
    path = stage.container("a")
    stage.links.attach(veth(path, 5, bridged=False))
    with pytest.raises(KernelError) as caught:
        stage.links.attach(veth(path, 6, bridged=False))
    assert caught.value.errno == errno.EEXIST
    assert {address for address, _ in stage.links.read().routes} == set(veth(path, 5).ips)


def test_leftover_host_end_is_replaced(stage: Stage) -> None:
    old, new = stage.container("old"), stage.container("new")
    stage.links.attach(veth(old, 5, bridged=False))
    stage.links.attach(veth(new, 5, bridged=False))
    assert not stage.links.inside(old, "eth0").exists
    assert stage.links.inside(new, "eth0").exists
    stage.links.attach(veth(new, 5, bridged=False))
    assert stage.links.inside(new, "eth0").up
    assert len(stage.links.read().veths) == 1


def test_missing_namespace_and_bridge(stage: Stage) -> None:
    with pytest.raises(KernelError) as caught:
        stage.links.attach(veth("/run/netns/fw-no-such-namespace", 5, bridged=False))
    assert caught.value.errno in (errno.ENOENT, errno.EINVAL)
    with pytest.raises(KernelError) as caught:
        stage.links.inside("/run/netns/fw-no-such-namespace", "eth0")
    assert caught.value.errno == errno.ENOENT
    path = stage.container("a")
    with pytest.raises(KernelError) as caught:
        stage.links.attach(veth(path, 5))
    assert caught.value.errno == errno.ENODEV
    assert not stage.links.inside(path, "eth0").exists
    assert stage.links.read().veths == ()


def test_own_namespace_is_refused(stage: Stage) -> None:
    with pytest.raises(KernelError) as caught:
        stage.links.attach(veth(stage.node, 5, bridged=False))
    assert caught.value.errno == errno.EINVAL


def test_node_side_is_put_back(stage: Stage) -> None:
    stage.links.ensure_bridge(BRIDGE)
    one = veth(stage.container("a"), 5)
    stage.links.attach(one)
    healthy = stage.links.read()
    stage.links.delete_bridge(BRIDGE.name)
    broken = stage.links.read()
    assert (broken.routes, broken.bridges) == ((), frozenset())
    assert broken.veths[0].master is None
    with pytest.raises(KernelError) as caught:
        stage.links.ensure_node_side(one)
    assert caught.value.errno == errno.ENODEV
    stage.links.ensure_bridge(BRIDGE)
    for _ in range(2):
        stage.links.ensure_node_side(one)
        assert stage.links.read() == healthy


def test_node_side_of_a_missing_veth(stage: Stage) -> None:
    with pytest.raises(KernelError) as caught:
        stage.links.ensure_node_side(veth(stage.container("a"), 5, bridged=False))
    assert caught.value.errno == errno.ENODEV


def test_bridge_is_idempotent_and_deletable(stage: Stage) -> None:
    for _ in range(2):
        stage.links.ensure_bridge(BRIDGE)
    stage.links.ensure_bridge(replace(BRIDGE, mac="02:fa:00:00:00:02", mtu=1400))
    assert stage.links.read().bridges == {BRIDGE.name}
    for _ in range(2):
        stage.links.delete_bridge(BRIDGE.name)
    assert stage.links.read().bridges == frozenset()


def test_loopback_addresses_are_exactly_those(stage: Stage) -> None:
    for wanted in (("169.254.20.10", "fd00::53"), ("169.254.20.11", "fd00::53"), ("169.254.20.11",), ()):
        for _ in range(2):
            stage.links.ensure_loopback(wanted)
            assert stage.links.read().loopback == frozenset(wanted)


def test_service_routes_are_not_container_routes(stage: Stage) -> None:
    stage.links.ensure_bridge(BRIDGE)
    stage.links.ensure_loopback(())
    for cidrs in (("10.96.0.0/16", "fd00:10:96::/112"), ("10.96.0.0/16",), ()):
        stage.links.ensure_service_routes(cidrs)
        assert stage.links.read().routes == ()


def test_second_interface_has_default_routes_of_its_own(stage: Stage) -> None:
    path = stage.container("a")
    stage.links.attach(veth(path, 5, bridged=False))
    stage.links.attach(veth(path, 6, bridged=False, ifname="net1"))
    assert stage.links.inside(path, "eth0").default_routes == (GATEWAY4, GATEWAY6)
    assert stage.links.inside(path, "net1").default_routes == (GATEWAY4, GATEWAY6)
    assert stage.links.inside(path, "net1").ips == veth(path, 6).ips


def test_default_mtu_without_a_default_route(stage: Stage) -> None:
    assert stage.links.default_mtu() == 1500


def test_routes_to_other_nodes_need_a_link(stage: Stage) -> None:
    near = {"10.1.0.0/24": "192.0.2.2"}
    refused = stage.links.ensure_peer_routes(near)
    assert (refused.changed, list(refused.refused)) == (0, ["10.1.0.0/24"])
    if isinstance(stage.links, FakeLinks):
        stage.links.add_link("192.0.2.0/24")
    else:
        stage.links.ensure_bridge(Bridge("fw-near", "02:00:00:00:00:77", ("192.0.2.1/24",)))
    done = stage.links.ensure_peer_routes({**near, "10.2.0.0/24": "198.51.100.1"})
    assert (done.changed, list(done.refused)) == (1, ["10.2.0.0/24"])
    assert stage.links.ensure_peer_routes(near).changed == 0
    assert stage.links.ensure_peer_routes({}).changed == 1


def test_far_ends_are_found_from_the_node(stage: Stage) -> None:
    first, second = veth(stage.container("a"), 5, bridged=False), veth(stage.container("b"), 6, bridged=False, ifname="net1")
    for item in (first, second):
        stage.links.attach(item)
    prepared = stage.links.prepare(veth(first.netns, 7, bridged=False, ifname="net1"))
    prepared.close()
    found = stage.links.trace([first.host_ifname, second.host_ifname, "fwr00007", "fwr00009", "lo"])
    assert {name: (end.netns, end.ifname) for name, end in found.items()} == {
        first.host_ifname: (first.netns, "eth0"),
        second.host_ifname: (second.netns, "net1"),
        "fwr00007": (first.netns, "net1"),
    }
    assert (found[second.host_ifname].inside.mac, found[second.host_ifname].inside.ips) == (second.mac, second.ips)
    assert stage.links.trace([]) == {}
