"""Forgetting connections, against entries that real packets made and entries made for the purpose."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import nftables
import pytest

from fairway_kernel import conntrack, netns
from fairway_kernel.conntrack import Conntrack, Match, Tuple
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.netlink import (
    NETLINK_NETFILTER,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkSocket,
    Request,
    attr,
    attr_be16,
    attr_be32,
    attr_u8,
    nest,
)

pytestmark = pytest.mark.needs_root

UDP, ICMP = 17, 1
CTA_TIMEOUT = 7
VIP, CLIENT, BACKEND, NAT = "10.96.0.1", "10.244.0.5", "10.244.0.9", "192.0.2.1"


def direction(kind: int, src: str, dst: str, sport: int, dport: int) -> bytes:
    v6 = ":" in src
    pack = socket.inet_pton
    family = socket.AF_INET6 if v6 else socket.AF_INET
    addresses = nest(1, attr(3 if v6 else 1, pack(family, src)), attr(4 if v6 else 2, pack(family, dst)))
    return nest(kind, addresses, nest(2, attr_u8(1, UDP), attr_be16(2, sport), attr_be16(3, dport)))


def entry(orig: tuple[str, str], reply: tuple[str, str], mark: int, sport: int = 1000, dport: int = 53) -> Request:
    body = direction(1, *orig, sport, dport) + direction(2, *reply, dport, sport)
    body += attr_be32(CTA_TIMEOUT, 600) + attr_be32(conntrack.CTA_MARK, mark)
    family = conntrack.AF_INET6 if ":" in orig[0] else conntrack.AF_INET
    header = conntrack.NFGENMSG.pack(family, 0, 0)
    return Request(conntrack.CT_NEW, header + body, "make an entry", NLM_F_CREATE | NLM_F_EXCL)


BALANCED = entry((CLIENT, VIP), (BACKEND, CLIENT), 0x5001)
OTHER_PORT = entry((CLIENT, VIP), (BACKEND, CLIENT), 0x6002, dport=54)
MASQUERADED = entry(("10.244.0.6", "198.51.100.1"), ("198.51.100.1", NAT), 0x0003)
SIXTH = entry(("fd00::5", "fd00::6"), ("fd00::6", "fd00::5"), 0x5FFF)
TRACKING = """
add table inet t
add chain inet t c { type filter hook output priority 0; }
add rule inet t c ct state new accept
"""
SEVENTH = entry(("fd00::7", "fd00::8"), ("fd00::8", "fd00::7"), 0x5FFF)
ALL = (BALANCED, OTHER_PORT, MASQUERADED, SIXTH, SEVENTH)


@pytest.fixture(params=[True, False], ids=["filtered", "one-by-one"])
def table(request: pytest.FixtureRequest, namespace: str) -> Iterator[Conntrack]:
    channel = NetlinkSocket(namespace, NETLINK_NETFILTER)
    channel.transact(ALL)
    channel.close()
    made = Conntrack(namespace, filtered_delete=request.param)
    assert len(made.entries()) == len(ALL)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("address", "left"),
    [(CLIENT, 3), (VIP, 3), (BACKEND, 3), (NAT, 4), ("198.51.100.1", 4), ("fd00::5", 4), ("fd00::6", 4), ("10.244.0.7", 5)],
)
def test_flush_address_in_every_place(table: Conntrack, address: str, left: int) -> None:
    number = table.flush_address(address)
    assert number in (None, len(ALL) - left)
    assert len(table.entries()) == left, "a neighbour's connections were lost"
    assert not any(address in (item.orig.src, item.orig.dst, item.reply.src, item.reply.dst) for item in table.entries())


def test_delete_by_service_and_backend(table: Conntrack) -> None:
    table.delete(protocol=UDP, orig_dst=VIP, orig_dst_port=53, reply_src="10.244.0.77")
    assert len(table.entries()) == 5
    table.delete(protocol=UDP, orig_dst=VIP, orig_dst_port=53, reply_src=BACKEND)
    assert {item.mark for item in table.entries()} == {0x6002, 0x0003, 0x5FFF}
    table.delete(protocol=6, orig_dst=VIP)
    assert len(table.entries()) == 4
    table.delete(protocol=UDP, orig_dst="fd00::6", orig_dst_port=53)
    assert [item.orig.dst for item in table.entries() if ":" in item.orig.dst] == ["fd00::8"]


def test_delete_by_mark(table: Conntrack) -> None:
    table.delete(mark=(0x5000, 0xF000))
    assert {item.mark for item in table.entries()} == {0x6002, 0x0003}
    table.delete(CLIENT, mark=(0x7000, 0xF000))
    assert len(table.entries()) == 2
    table.delete(CLIENT, mark=(0x6000, 0xF000))
    assert {item.mark for item in table.entries()} == {0x0003}


def test_delete_by_protocol_alone(table: Conntrack) -> None:
    assert table.delete(protocol=6) in (None, 0)
    assert len(table.entries()) == 5
    table.delete(protocol=UDP)
    assert table.entries() == []


def test_addresses_of_two_families_match_nothing(table: Conntrack) -> None:
    table.delete(orig_src="fd00::5", reply_dst=CLIENT)
    assert len(table.entries()) == 5


def test_deleting_everything_is_refused(table: Conntrack) -> None:
    with pytest.raises(ValueError, match="every connection"):
        table.delete()
    assert len(table.entries()) == 5


def test_sweep_clears_only_the_bits_of_the_mask(table: Conntrack) -> None:
    assert table.sweep_mark(0x0FFF) == 5
    assert sorted(item.mark for item in table.entries()) == [0x0000, 0x5000, 0x5000, 0x5000, 0x6000]
    assert table.sweep_mark(0x0FFF) == 0


def test_sweep_of_many(table: Conntrack, namespace: str) -> None:
    channel = NetlinkSocket(namespace, NETLINK_NETFILTER)
    channel.transact([entry((CLIENT, VIP), (BACKEND, CLIENT), 0xA0007, sport=port) for port in range(2000, 5000)])
    channel.close()
    assert table.sweep_mark(0xFFF) == 3005
    assert all(item.mark & 0xFFF == 0 for item in table.entries())
    table.delete(orig_dst=VIP)
    assert len(table.entries()) == 3


def test_entries_of_real_packets(namespace: str) -> None:
    # Tracking starts with the first rule that asks for it.
    def talk() -> None:
        ruleset = nftables.Nftables()
        code, _, error = ruleset.cmd(TRACKING)
        assert code == 0, error
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind(("127.0.0.1", 5353))
            client.sendto(b"x", ("127.0.0.1", 5353))
            server.settimeout(2)
            server.recvfrom(10)

    links = KernelLinks(namespace)
    links.ensure_loopback(())
    links.close()
    netns.run_in(namespace, talk)
    table = Conntrack(namespace)
    (found,) = table.entries(Match(protocol=UDP, orig=Tuple(dst_port=5353)))
    assert (found.orig.src, found.orig.dst, found.reply.src) == ("127.0.0.1",) * 3
    table.flush_address("127.0.0.1")
    assert table.entries() == []
    table.close()
