"""Every odd query known to trip a resolver, against its right answer, over UDP and TCP; dnspython reads what we write."""

from __future__ import annotations

import struct
import time

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from fairway_dns.answer import Elsewhere, answer
from fairway_dns.authority import standard_authorities
from fairway_dns.names import to_key
from fairway_dns.wire import Tail, parse_query, render
from fairway_dns.zone import Record, Zone, ZoneDelta

Z = "cluster.local"
WEB = f"web.shop.svc.{Z}"
DB = f"db.shop.svc.{Z}"
RECORDS = (
    Record(f"dns-version.{Z}", "TXT", "1.1.0"),
    Record(Z, "NS", f"ns.dns.{Z}"),
    Record(f"ns.dns.{Z}", "A", "169.254.20.10"),
    Record(WEB, "A", "10.96.0.10"),
    Record(f"_http._tcp.{WEB}", "SRV", f"0 100 80 {WEB}"),
    Record("10.0.96.10.in-addr.arpa", "PTR", WEB),
    *(Record(DB, "A", f"10.244.0.{n}") for n in range(1, 4)),
    *(Record(f"_pg._tcp.{DB}", "SRV", f"0 100 5432 h{n}.{DB}") for n in range(1, 4)),
    *(Record(f"h{n}.{DB}", "A", f"10.244.0.{n}") for n in range(1, 4)),
    Record(f"out.shop.svc.{Z}", "CNAME", "www.example.com"),
    Record(f"in.shop.svc.{Z}", "CNAME", WEB),
    Record(f"gone.shop.svc.{Z}", "CNAME", f"nothing.shop.svc.{Z}"),
    Record(f"loop.shop.svc.{Z}", "CNAME", f"pool.shop.svc.{Z}"),
    Record(f"pool.shop.svc.{Z}", "CNAME", f"loop.shop.svc.{Z}"),
    *(Record(f"big.shop.svc.{Z}", "A", f"10.1.{n // 250}.{n % 250}") for n in range(400)),
)
AUTHORITIES = standard_authorities(Z, ("10.96.0.0/16", "fd00:10:96::/112"))

both = pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])


@pytest.fixture(scope="module")
def zone() -> Zone:
    made = Zone(held=(Z, f"svc.{Z}", f"pod.{Z}"))
    made.apply(ZoneDelta(add=frozenset(RECORDS)), 7)
    return made


def raw(zone: Zone, data: bytes, tcp: bool = False, turn: int = 0) -> bytes | None:
    query = parse_query(data)
    if query is None:
        return None
    tail = answer(zone, AUTHORITIES, query, turn)
    assert isinstance(tail, Tail)
    return render(query, tail, tcp)


def asked(zone: Zone, name: str, rtype: str = "A", tcp: bool = False, turn: int = 0, **more: object) -> dns.message.Message:
    query = dns.message.make_query(name, rtype, **more)  # type: ignore[arg-type]
    wire = query.to_wire()
    reply = raw(zone, wire, tcp, turn)
    assert reply is not None
    found = dns.message.from_wire(reply)
    assert found.id == query.id
    assert reply[12 : 12 + len(found.question[0].name.to_wire()) + 4] == wire[12 : 12 + len(query.question[0].name.to_wire()) + 4]
    assert found.flags & dns.flags.RA
    assert bool(found.flags & dns.flags.RD) == bool(query.flags & dns.flags.RD)
    assert (found.edns == -1) == (query.edns == -1)
    return found


def texts(message: dns.message.Message) -> list[str]:
    return [f"{rrset.name.to_text(True).lower()} {rr.rdtype.name} {rr.to_text()}" for rrset in message.answer for rr in rrset]


def assert_denied(message: dns.message.Message, rcode: int, origin: str = Z, ttl: int = 5) -> None:
    assert message.rcode() == rcode
    assert message.answer == []
    (soa,) = message.authority
    assert soa.name.to_text(True).lower() == origin
    assert soa.rdtype == dns.rdatatype.SOA
    assert soa.ttl == min(ttl, soa[0].minimum) == ttl
    assert message.flags & dns.flags.AA


@both
def test_address_of_a_service(zone: Zone, tcp: bool) -> None:
    found = asked(zone, WEB, tcp=tcp)
    assert found.flags & dns.flags.AA
    assert texts(found) == [f"{WEB} A 10.96.0.10"]
    assert found.answer[0].ttl == 5


@both
def test_missing_type_of_an_existing_name_is_nodata(zone: Zone, tcp: bool) -> None:
    for rtype in ("AAAA", "MX", "HTTPS", "TYPE65280"):
        assert_denied(asked(zone, WEB, rtype, tcp), dns.rcode.NOERROR)


@both
@pytest.mark.parametrize(
    "name",
    [
        f"nope.shop.svc.{Z}",
        f"nope.svc.{Z}",
        f"web.other.svc.{Z}",
        f"x.{WEB}",
        f"nope.{Z}",
        f"1-2-3-4.shop.pod.{Z}",
        f"_x._tcp.{WEB}",
    ],
)
def test_unknown_names_do_not_exist_and_carry_the_soa(zone: Zone, name: str, tcp: bool) -> None:
    assert_denied(asked(zone, name, tcp=tcp), dns.rcode.NXDOMAIN)


@pytest.mark.parametrize("name", [f"svc.{Z}", f"shop.svc.{Z}", f"pod.{Z}", Z, f"_tcp.{WEB}", f"dns.{Z}"])
def test_names_that_only_have_names_below_are_nodata(zone: Zone, name: str) -> None:
    assert_denied(asked(zone, name), dns.rcode.NOERROR)


def test_soa_ns_and_version_of_the_zone(zone: Zone) -> None:
    soa = asked(zone, Z, "SOA").answer[0][0]
    assert (soa.serial, soa.minimum) == (7, 5)
    assert texts(asked(zone, Z, "NS")) == [f"{Z} NS ns.dns.{Z}."]
    assert texts(asked(zone, f"dns-version.{Z}", "TXT")) == [f'dns-version.{Z} TXT "1.1.0"']


def test_reverse_names(zone: Zone) -> None:
    assert texts(asked(zone, "10.0.96.10.in-addr.arpa", "PTR")) == [f"10.0.96.10.in-addr.arpa PTR {WEB}."]
    assert_denied(asked(zone, "11.0.96.10.in-addr.arpa", "PTR"), dns.rcode.NXDOMAIN, "96.10.in-addr.arpa")
    v6 = "f" + ".0" * 19 + ".6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa"
    assert_denied(asked(zone, v6, "PTR"), dns.rcode.NXDOMAIN, v6[8:])


@both
@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("1.2.3.10.in-addr.arpa", "10.in-addr.arpa"),
        ("1.1.168.192.in-addr.arpa", "168.192.in-addr.arpa"),
        ("9.9.20.172.in-addr.arpa", "20.172.in-addr.arpa"),
        ("1.0.100.100.in-addr.arpa", "100.100.in-addr.arpa"),
        ("x.y.d.f.ip6.arpa", "d.f.ip6.arpa"),
        ("host.invalid", "invalid"),
        ("facebookcorewwwi.onion", "onion"),
        ("_dns.resolver.arpa", "resolver.arpa"),
        ("gns.alt", "alt"),
        ("db.test", "test"),
        ("9.9.16.172.in-addr.arpa", "16.172.in-addr.arpa"),
        ("9.9.31.172.in-addr.arpa", "31.172.in-addr.arpa"),
        ("9.9.127.100.in-addr.arpa", "127.100.in-addr.arpa"),
        ("9.9.254.169.in-addr.arpa", "254.169.in-addr.arpa"),
        ("9.0.0.127.in-addr.arpa", "127.in-addr.arpa"),
        ("9.2.0.192.in-addr.arpa", "2.0.192.in-addr.arpa"),
        ("9.100.51.198.in-addr.arpa", "100.51.198.in-addr.arpa"),
        ("9.113.0.203.in-addr.arpa", "113.0.203.in-addr.arpa"),
        ("9.9.9.0.in-addr.arpa", "0.in-addr.arpa"),
        ("x.8.e.f.ip6.arpa", "8.e.f.ip6.arpa"),
        ("x.b.e.f.ip6.arpa", "b.e.f.ip6.arpa"),
        ("x.8.b.d.0.1.0.0.2.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa"),
    ],
)
def test_private_reverse_and_special_names_stay_here(zone: Zone, name: str, origin: str, tcp: bool) -> None:
    assert_denied(asked(zone, name, "PTR", tcp), dns.rcode.NXDOMAIN, origin, 10800)


@both
def test_localhost(zone: Zone, tcp: bool) -> None:
    assert texts(asked(zone, "LocalHost", tcp=tcp)) == ["localhost A 127.0.0.1"]
    assert texts(asked(zone, "db.localhost", "AAAA", tcp)) == ["db.localhost AAAA ::1"]
    assert_denied(asked(zone, "localhost", "MX", tcp), dns.rcode.NOERROR, "localhost", 10800)
    assert texts(asked(zone, "1.0.0.127.in-addr.arpa", "PTR", tcp)) == ["1.0.0.127.in-addr.arpa PTR localhost."]


@both
def test_case_is_ignored_and_kept(zone: Zone, tcp: bool) -> None:
    query = dns.message.make_query("wEb.ShOp.SvC.cLuStEr.LoCaL", "A").to_wire()
    reply = raw(zone, query, tcp)
    assert reply is not None
    assert reply[12 : len(query)] == query[12:]
    assert dns.message.from_wire(reply).answer[0][0].address == "10.96.0.10"
    assert_denied(asked(zone, "NoPe.Cluster.LOCAL"), dns.rcode.NXDOMAIN)


def test_owner_names_are_compressed(zone: Zone) -> None:
    reply = raw(zone, dns.message.make_query(WEB, "A").to_wire())
    assert reply is not None
    assert len(reply) == 12 + len(to_key(WEB)) + 4 + 16


@both
def test_edns_version_1_is_badvers_with_version_0(zone: Zone, tcp: bool) -> None:
    found = asked(zone, WEB, tcp=tcp, use_edns=1)
    assert (found.rcode(), found.edns, found.payload, found.answer) == (dns.rcode.BADVERS, 0, 1232, [])


@both
def test_two_opt_records_are_a_format_error(zone: Zone, tcp: bool) -> None:
    wire = bytearray(dns.message.make_query(WEB, "A", use_edns=0).to_wire())
    wire[10:12] = b"\0\2"
    reply = raw(zone, bytes(wire) + bytes(wire[-11:]), tcp)
    assert reply is not None
    assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


@both
def test_option_that_overruns_its_record_is_a_format_error(zone: Zone, tcp: bool) -> None:
    base = dns.message.make_query(WEB, "A").to_wire()
    for rdata in (struct.pack("!HH", 10, 9) + b"12345678", b"\0\x0a\0", b"\0"):
        opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(rdata)) + rdata
        reply = raw(zone, base[:10] + b"\0\1" + base[12:] + opt, tcp)
        assert reply is not None
        assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


def test_opt_with_an_owner_name_or_beyond_the_message_is_a_format_error(zone: Zone) -> None:
    base = dns.message.make_query(WEB, "A").to_wire()
    named = b"\1a\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    cut = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 20)
    for opt in (named, cut, b""):
        reply = raw(zone, base[:10] + b"\0\1" + base[12:] + opt)
        assert reply is not None
        assert dns.message.from_wire(reply).rcode() == dns.rcode.FORMERR


@pytest.mark.parametrize(("size", "limit"), [(0, 512), (100, 512), (512, 512), (900, 900), (1232, 1232), (65535, 1232)])
def test_payload_sizes(zone: Zone, size: int, limit: int) -> None:
    reply = raw(zone, dns.message.make_query(f"big.shop.svc.{Z}", "A", use_edns=0, payload=size).to_wire())
    assert reply is not None
    found = dns.message.from_wire(reply)
    assert found.flags & dns.flags.TC
    assert limit - 16 < len(reply) <= limit
    assert found.payload == 1232
    assert len(found.answer[0]) > 20


def test_large_answers_without_edns_are_cut_at_512_and_whole_over_tcp(zone: Zone) -> None:
    short = asked(zone, f"big.shop.svc.{Z}")
    assert short.flags & dns.flags.TC
    assert short.opt is None
    whole = asked(zone, f"big.shop.svc.{Z}", tcp=True)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer[0]) == 400


@both
@pytest.mark.parametrize("length", [8, 24, 5])
def test_cookies_and_unknown_options_are_never_echoed(zone: Zone, tcp: bool, length: int) -> None:
    options = [dns.edns.GenericOption(10, b"c" * length), dns.edns.GenericOption(65001, b"x")]
    found = asked(zone, WEB, tcp=tcp, use_edns=0, options=options)
    assert (found.rcode(), found.options) == (dns.rcode.NOERROR, ())


def test_the_do_bit_is_copied(zone: Zone) -> None:
    assert asked(zone, WEB, use_edns=0, want_dnssec=True).ednsflags & dns.flags.DO
    assert not asked(zone, WEB, use_edns=0).ednsflags & dns.flags.DO


@both
@pytest.mark.parametrize("count", [0, 2])
def test_question_count_must_be_one(zone: Zone, tcp: bool, count: int) -> None:
    wire = dns.message.make_query(WEB, "A").to_wire()
    body = wire[12:] * count
    reply = raw(zone, wire[:4] + struct.pack("!HHHH", count, 0, 0, 0) + body, tcp)
    assert reply is not None
    assert reply[3] & 15 == dns.rcode.FORMERR
    assert reply[4:] == bytes(8)


@both
def test_replies_are_never_answered(zone: Zone, tcp: bool) -> None:
    wire = bytearray(dns.message.make_query(WEB, "A").to_wire())
    wire[2] |= 0x80
    assert raw(zone, bytes(wire), tcp) is None
    assert raw(zone, b"\0" * 11, tcp) is None
    assert raw(zone, b"", tcp) is None


@both
@pytest.mark.parametrize(
    ("opcode", "rcode"),
    [
        (1, dns.rcode.NOTIMP),
        (2, dns.rcode.NOTIMP),
        (6, dns.rcode.NOTIMP),
        (15, dns.rcode.NOTIMP),
        (4, dns.rcode.REFUSED),
        (5, dns.rcode.REFUSED),
    ],
)
def test_other_opcodes(zone: Zone, opcode: int, rcode: int, tcp: bool) -> None:
    wire = bytearray(dns.message.make_query(WEB, "A").to_wire())
    wire[2] |= opcode << 3
    reply = raw(zone, bytes(wire), tcp)
    assert reply is not None
    assert (reply[2] >> 3 & 15, reply[3] & 15) == (opcode, rcode)


@both
def test_questions_that_cannot_be_read_are_format_errors(zone: Zone, tcp: bool) -> None:
    wire = dns.message.make_query(WEB, "A").to_wire()
    pointer = wire[:12] + b"\xc0\x0c\0\1\0\1"
    long = wire[:12] + b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 3 + b"\0\0\1\0\1"
    for data in (wire[:-1], wire[:-4], wire[:20], wire[:12], pointer, long, wire[:12] + b"\x40a\0\0\1\0\1"):
        reply = raw(zone, data, tcp)
        assert reply is not None
        assert (reply[:2], reply[3] & 15) == (data[:2], dns.rcode.FORMERR)


@both
@pytest.mark.parametrize("rdclass", ["NONE", "ANY", "CH", "HS"])
def test_other_classes_are_refused(zone: Zone, rdclass: str, tcp: bool) -> None:
    assert asked(zone, WEB, tcp=tcp, rdclass=rdclass).rcode() == dns.rcode.REFUSED


@both
def test_transfers_are_refused(zone: Zone, tcp: bool) -> None:
    assert asked(zone, Z, "AXFR", tcp).rcode() == dns.rcode.REFUSED
    ixfr = dns.message.make_query(Z, "IXFR")
    ixfr.authority.append(dns.rrset.from_text(f"{Z}.", 0, "IN", "SOA", "a. b. 1 2 3 4 5"))
    reply = raw(zone, ixfr.to_wire(), tcp)
    assert reply is not None
    assert reply[3] & 15 == dns.rcode.REFUSED


@both
def test_any_gets_one_small_record(zone: Zone, tcp: bool) -> None:
    assert texts(asked(zone, DB, "ANY", tcp)) == [f'{DB} HINFO "RFC8482" ""']
    assert texts(asked(zone, "example.com", "ANY", tcp)) == ['example.com HINFO "RFC8482" ""']
    assert_denied(asked(zone, f"nope.{Z}", "ANY", tcp), dns.rcode.NXDOMAIN)


@pytest.mark.parametrize(("rtype", "rcode"), [(41, dns.rcode.FORMERR), (249, dns.rcode.NOTIMP), (253, dns.rcode.NOTIMP)])
def test_meta_types_are_no_questions(zone: Zone, rtype: int, rcode: int) -> None:
    wire = bytearray(dns.message.make_query(WEB, "A").to_wire())
    wire[-3] = rtype
    reply = raw(zone, bytes(wire))
    assert reply is not None
    assert reply[3] & 15 == rcode


def test_answers_in_a_query_are_a_format_error(zone: Zone) -> None:
    wire = dns.message.make_query(WEB, "A").to_wire()
    reply = raw(zone, wire[:6] + b"\0\1" + wire[8:] + b"\0" + struct.pack("!HHIH", 1, 1, 0, 0))
    assert reply is not None
    assert reply[3] & 15 == dns.rcode.FORMERR


def test_hostile_messages_cost_no_more_than_good_ones(zone: Zone) -> None:
    base = dns.message.make_query(WEB, "A").to_wire()
    many = base[:10] + struct.pack("!H", 4000) + base[12:] + (b"\0" + struct.pack("!HHIH", 1, 1, 0, 4) + b"1234") * 4000
    start = time.process_time()
    for _ in range(100):
        for data in (many, base + bytes(60_000), base[:10] + b"\xff\xff" + base[12:]):
            reply = raw(zone, data)
            assert reply is not None
            assert reply[3] & 15 == dns.rcode.FORMERR
    assert (time.process_time() - start) / 300 < 0.001


def test_addresses_rotate(zone: Zone) -> None:
    orders = {tuple(texts(asked(zone, DB, turn=turn))) for turn in range(6)}
    assert len(orders) == 3
    assert len({order[0] for order in orders}) == 3


def test_srv_brings_the_addresses_of_its_targets(zone: Zone) -> None:
    found = asked(zone, f"_pg._tcp.{DB}", "SRV")
    assert sorted(texts(found)) == [f"_pg._tcp.{DB} SRV 0 100 5432 h{n}.{DB}." for n in range(1, 4)]
    assert sorted(rrset[0].address for rrset in found.additional) == ["10.244.0.1", "10.244.0.2", "10.244.0.3"]


def test_srv_glue_follows_changes_of_the_targets() -> None:
    own = Zone()
    own.apply(ZoneDelta(add=frozenset(RECORDS)), 1)
    asked(own, f"_http._tcp.{WEB}", "SRV")
    old, new = Record(WEB, "A", "10.96.0.10"), Record(WEB, "A", "10.96.0.99")
    own.apply(ZoneDelta(frozenset({new}), frozenset({old})), 2)
    found = asked(own, f"_http._tcp.{WEB}", "SRV")
    assert [rrset[0].address for rrset in found.additional] == ["10.96.0.99"]


def test_external_name_leads_outside(zone: Zone) -> None:
    query = parse_query(dns.message.make_query(f"out.shop.svc.{Z}", "A").to_wire())
    assert query is not None
    found = answer(zone, AUTHORITIES, query)
    assert found == Elsewhere(to_key("www.example.com"), ((to_key(f"out.shop.svc.{Z}"), 5, "www.example.com"),))
    assert texts(asked(zone, f"out.shop.svc.{Z}", "CNAME")) == [f"out.shop.svc.{Z} CNAME www.example.com."]


def test_cnames_inside_the_zone_are_followed(zone: Zone) -> None:
    assert texts(asked(zone, f"in.shop.svc.{Z}")) == [f"in.shop.svc.{Z} CNAME {WEB}.", f"{WEB} A 10.96.0.10"]
    nodata = asked(zone, f"in.shop.svc.{Z}", "AAAA")
    assert (nodata.rcode(), len(nodata.answer), nodata.authority[0].rdtype.name) == (0, 1, "SOA")
    gone = asked(zone, f"gone.shop.svc.{Z}")
    assert (gone.rcode(), len(gone.answer), gone.authority[0].rdtype.name) == (dns.rcode.NXDOMAIN, 1, "SOA")
    assert asked(zone, f"loop.shop.svc.{Z}").rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("name", ["example.com", "com", ".", "cluster.locale", "xcluster.local", "8.8.8.8.in-addr.arpa"])
def test_other_names_are_for_upstreams(zone: Zone, name: str) -> None:
    query = parse_query(dns.message.make_query(name, "A").to_wire())
    assert query is not None
    assert answer(zone, AUTHORITIES, query) == Elsewhere(to_key(name))


@both
def test_before_the_first_table_the_zone_fails_and_denies_nothing(tcp: bool) -> None:
    empty = Zone(held=(Z, f"svc.{Z}", f"pod.{Z}"))
    for name in (WEB, Z, f"svc.{Z}", "1.0.96.10.in-addr.arpa"):
        found = asked(empty, name, tcp=tcp, use_edns=0)
        assert found.rcode() == dns.rcode.SERVFAIL
        assert [option.to_wire()[:2] for option in found.options] == [b"\0\x0e"]
        assert asked(empty, name, "ANY", tcp).rcode() == dns.rcode.SERVFAIL
    assert asked(empty, "localhost").rcode() == dns.rcode.NOERROR
