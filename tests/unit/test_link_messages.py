"""Netlink messages as bytes, wiring requests, connection matches: no kernel needed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway_kernel.conntrack import Entry, Match, Tuple
from fairway_kernel.link import decode, wiring
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6, Veth
from fairway_kernel.link.rtnl import IFINFO, IFLA_BRPORT_ISOLATED, RTM_NEWLINK, host_route, link, mac_bytes, mac_text, neighbour
from fairway_kernel.netlink import HEADER, attr, attr_text, attr_u8, attr_u32, attributes, messages, nest, text

VETH = Veth("fwb1", "/ns", "eth0", "0a:58:0a:f4:00:05", ("10.244.0.5", "fd00::5"), 1450, "fairway", "02:fa:00:00:00:01", "fw-net")


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8))
def test_attributes_come_back(parts: dict[int, bytes]) -> None:
    assert attributes(b"".join(attr(kind, data) for kind, data in parts.items())) == parts


@given(st.binary(max_size=64))
def test_any_bytes_are_read_without_error(data: bytes) -> None:
    found = attributes(data)
    assert sum(4 + len(value) for value in found.values()) <= len(data)
    assert sum(16 + len(payload) for _, _, _, payload in messages(data)) <= len(data)


def test_nested_attributes_are_flagged_and_read_alike() -> None:
    data = nest(18, attr(1, b"veth\0"))
    assert struct.unpack_from("=HH", data) == (len(data), 18 | 0x8000)
    assert text(attributes(attributes(data)[18])[1]) == "veth"


def test_messages_of_one_datagram_are_told_apart() -> None:
    first, second = attr(1, b"abc"), b""
    data = b"".join(HEADER.pack(16 + len(body), kind, 2, 7, 0) + body for kind, body in ((16, first), (3, second)))
    assert list(messages(data)) == [(16, 2, 7, first), (3, 2, 7, second)]


@pytest.mark.parametrize("requests", [wiring.fresh_port, wiring.port])
def test_a_port_is_isolated_before_anything_brings_it_up(requests: wiring.PortRequests) -> None:
    bridged, routed = requests(VETH, 7, 3), requests(VETH, 7, 0)
    isolated = attr_u8(IFLA_BRPORT_ISOLATED, 1)
    assert any(isolated in item.body for item in bridged)
    assert not any(isolated in item.body for item in routed)
    assert not any(link(7, up=True) == item.body[: IFINFO.size] for item in [*bridged, *routed])


def test_connecting_brings_up_first_and_routes_lead_to_the_bridge_or_the_link() -> None:
    bridged, routed = wiring.connection(VETH, 7, 3), wiring.connection(VETH, 7, 0)
    assert bridged[0].body[: IFINFO.size] == routed[0].body[: IFINFO.size] == link(7, up=True)
    assert {host_route("10.244.0.5", 3), neighbour("fd00::5", VETH.mac, 3)} <= set(bridged)
    assert host_route("10.244.0.5", 7) in routed


def test_create_pair_describes_both_ends_down() -> None:
    request = wiring.create_pair(VETH, 11, 3)
    assert request.kind == RTM_NEWLINK
    host = decode.link_of(request.body)
    assert (host.name, host.mac, host.master, host.kind, host.up, host.mtu) == (
        "fwb1", "fe:58:0a:f4:00:05", 3, "veth", False, 1450,
    )  # fmt: skip
    data = attributes(attributes(attributes(request.body, 16)[18])[2])[1]
    peer = decode.link_of(data)
    assert (peer.name, peer.mac, peer.up, peer.mtu) == ("eth0", VETH.mac, False, 1450)
    assert struct.unpack("=I", attributes(data, 16)[28]) == (11,)


def test_name_of_reads_what_link_of_reads_wherever_the_name_stands() -> None:
    request = wiring.create_pair(VETH, 11, 3)
    assert decode.name_of(request.body) == (0, "fwb1")
    later = link(7) + attr_u32(4, 1500) + attr_text(3, "fwb2")
    assert decode.name_of(later) == (7, decode.link_of(later).name) == (7, "fwb2")
    assert decode.name_of(link(7)) == (7, "")


def test_gateways_follow_the_families() -> None:
    assert wiring.gateways(("fd00::5", "10.244.0.5")) == [GATEWAY4, GATEWAY6]
    assert wiring.gateways(("fd00::5",)) == [GATEWAY6]
    assert wiring.gateways(()) == []


def test_mac_text_and_bytes_agree() -> None:
    assert mac_text(mac_bytes("0a:58:0a:f4:00:05")) == "0a:58:0a:f4:00:05"


def test_match_needs_every_given_field() -> None:
    entry = Entry(17, Tuple("10.0.0.1", "10.96.0.1", 1000, 53), Tuple("10.0.0.9", "10.0.0.1", 53, 1000), 0x5001)
    assert Match(17, Tuple(dst="10.96.0.1", dst_port=53), Tuple(src="10.0.0.9"), (0x5FFF, 0xF000))(entry)
    assert not Match(6)(entry)
    assert not Match(orig=Tuple(dst="10.96.0.1", dst_port=54))(entry)
    assert not Match(reply=Tuple(src="10.0.0.8"))(entry)
    assert not Match(mark=(0x6000, 0xF000))(entry)
    assert Match(orig=Tuple(src="10.0.0.1"), reply=Tuple(dst="fd00::1")).families == ()
