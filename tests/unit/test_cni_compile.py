"""Pins and masquerade as elements, and the rules as text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fairway_cni.compile import LAYOUT, PinCompiler, ranges_of
from fairway_cni.plan import Identity, bridge_name, veth_of
from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model import Attachment, Meta, Node, Object
from fairway_core.world import Change, World
from fairway_kernel.nft.objects import BRIDGE, INET, Elements, Range, Slot
from fairway_kernel.nft.transaction import add_layout

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
    assert str(add_layout(LAYOUT, [INET, BRIDGE])) == GOLDEN.read_text()


def test_both_modes_are_pinned_in_their_own_table() -> None:
    compiler = PinCompiler(["10.1.0.0/24"])
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
    assert len(veth_of(item).alias) == 255
