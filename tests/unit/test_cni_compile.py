"""Pins and masquerade as elements, and the rules as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fairway_cni.compile import PinCompiler, ranges_of
from fairway_cni.plan import Identity, bridge_name, veth_of
from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model import Attachment, HostPort, Meta, Node, Object
from fairway_core.world import Change, World
from fairway_kernel.nft.objects import BRIDGE, INET, Elements, Range, Slot
from fairway_kernel.nft.transaction import add_layout

CIDRS = ["10.1.0.0/24", "fd00::/64"]
GOLDEN = Path(__file__).parents[1] / "golden" / "cni_layout.nft"


def attachment(number: int = 1, mode: str = "bridge") -> Attachment:
    who = Identity("net", f"c{number}", "eth0")
    ips = (f"10.1.0.{number}", f"fd00::{number}")
    name, host = Meta(who.object_name), who.host_ifname(mode)
    return Attachment(name, "net", f"c{number}", "eth0", "/n", "shop", "web", host, "0a:58:0a:01:00:02", ips, mode)


def change(world: World, *objects: Object, gone: Key | None = None) -> tuple[World, frozenset[Key]]:
    changes = [Change(item.meta.key(type(item).__name__), item) for item in objects]
    changes += [Change(gone, None)] if gone else []
    return world.apply(changes, world.revision + 1)


def update(
    compiler: PinCompiler, before: World, *objects: Object, gone: Key | None = None
) -> tuple[World, dict[Owner, Elements]]:
    after, touched = change(before, *objects, gone=gone)
    return after, dict(compiler.update(before, after, touched))


def test_rules_are_as_reviewed() -> None:
    assert str(add_layout(PinCompiler(CIDRS).layout, [INET, BRIDGE])) == GOLDEN.read_text()


def test_both_modes_are_pinned_in_their_own_table() -> None:
    compiler = PinCompiler(CIDRS)
    bridged, routed = attachment(1), attachment(2, "routed")
    world, owners = update(compiler, World(), bridged, routed)
    mac = bridged.mac
    assert owners["pin", bridged.meta.name] == {
        Slot("pin_bridged4", (bridged.host_ifname, mac, "10.1.0.1")): (),
        Slot("pin_bridged6", (bridged.host_ifname, mac, "fd00::1")): (),
    }
    assert {slot.set for slot in owners["pin", routed.meta.name]} == {"pin_routed4", "pin_routed6"}
    _, owners = update(compiler, world, gone=bridged.meta.key("Attachment"))
    assert owners == {("pin", bridged.meta.name): {}}


def test_masquerade_knows_this_node_and_all_nodes() -> None:
    compiler = PinCompiler(["10.1.0.0/24", "fd00::/64"])
    world, owners = update(compiler, World(), Node(Meta("other"), (), ("10.1.1.0/24", "fd01::/64")))
    elements = owners["masq",]
    assert Slot("masq_from4", (Range("10.1.0.0", "10.1.0.255"),)) in elements
    assert Slot("masq_inside4", (Range("10.1.0.0", "10.1.1.255"),)) in elements, "adjacent ranges are merged"
    assert {slot.key for slot in elements if slot.set == "masq_inside6"} == {
        (Range("fd00::", "fd00::ffff:ffff:ffff:ffff"),),
        (Range("fd01::", "fd01::ffff:ffff:ffff:ffff"),),
    }
    world, owners = update(compiler, world, attachment())
    assert ("masq",) not in owners
    _, owners = update(compiler, world, gone=Key("Node", "", "other"))
    assert len(owners["masq",]) == 4


def test_the_empty_world_has_its_masquerade_too() -> None:
    assert PinCompiler(["10.1.0.0/24"]).update(World(), World(), frozenset())[("masq",)]


def test_overlapping_cidrs_become_one_range() -> None:
    assert list(ranges_of("s", ["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32"])) == [
        Slot("s4", (Range("10.0.0.0", "10.255.255.255"),)),
        Slot("s4", (Range("192.0.2.7", "192.0.2.7"),)),
    ]


def test_names_fit_the_kernel_and_tell_attachments_apart() -> None:
    long = "a-network-with-a-long-name"
    assert len(bridge_name(long)) == 15
    assert bridge_name(long) != bridge_name(long + "r")
    assert bridge_name("net") == "fw-net"
    identities = {Identity("n", "c", "eth0"), Identity("n", "c", "eth1"), Identity("n", "C", "eth0"), Identity("nc", "", "eth0")}
    assert len({who.object_name for who in identities}) == 4
    for who in identities:
        assert len(who.host_ifname("bridge")) == 14
    item = replace(attachment(), container_id="x" * 300)
    assert len(veth_of(item).alias) == 254


def test_ports_open_in_the_families_of_their_address() -> None:
    compiler = PinCompiler(CIDRS)
    ports = (HostPort("tcp", 80, 8080), HostPort("udp", 53, 5353, "192.0.2.1"))
    world, owners = update(compiler, World(), replace(attachment(), host_ports=ports))
    found = {slot: value for slot, value in owners["pin", attachment().meta.name].items() if slot.set.startswith("hostport")}
    assert found == {
        Slot("hostport_any4", ("tcp", 80)): ("10.1.0.1", 8080),
        Slot("hostport_any6", ("tcp", 80)): ("fd00::1", 8080),
        Slot("hostport4", ("192.0.2.1", "udp", 53)): ("10.1.0.1", 5353),
        Slot("hostport_self4", ("10.1.0.1", "10.1.0.1")): (),
        Slot("hostport_self6", ("fd00::1", "fd00::1")): (),
    }
    assert update(compiler, world, gone=attachment().meta.key("Attachment"))[1] == {("pin", attachment().meta.name): {}}


def test_masquerade_follows_the_network() -> None:
    compiler = PinCompiler(["10.9.0.0/24"])
    own = replace(attachment(), masquerade=False)
    _, owners = update(compiler, World(), own)
    slots = owners["pin", own.meta.name]
    assert {Slot("masq_never4", ("10.1.0.1",)), Slot("masq_never6", ("fd00::1",))} <= slots.keys()
    _, owners = update(compiler, World(), replace(own, masquerade=True))
    assert Slot("masq_from4", (Range("10.1.0.1", "10.1.0.1"),)) in owners["pin", own.meta.name], "outside podCIDRs"


def test_an_interface_of_somebody_else_has_no_pins() -> None:
    _, owners = update(PinCompiler(CIDRS), World(), replace(attachment(), mode="chained"))
    assert not any(slot.set.startswith("pin") for slot in owners["pin", attachment().meta.name])
