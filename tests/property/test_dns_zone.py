"""Structures against their naive oracles, and our octets against two other implementations."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rdatatype
import dnslib
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.model import Endpoint, EndpointSlice, Meta, Object, Pod, Service, ServicePort, SlicePort
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World
from fairway_dns.answer import answer
from fairway_dns.authority import standard_authorities
from fairway_dns.compile import ZoneCompiler
from fairway_dns.names import to_key
from fairway_dns.response import parse_response
from fairway_dns.wire import TYPES, Tail, WireError, parse_query, render
from fairway_dns.zone import Record, Zone, ZoneDelta

Z = "cluster.local"
AUTHORITIES = standard_authorities(Z, ("10.96.0.0/16",))
labels = st.sampled_from(["a", "b", "web", "db-0"])
namespaces = st.sampled_from(["shop", "pay"])
records = st.one_of(
    st.builds(lambda n, s, d: Record(f"{n}.{s}.svc.{Z}", "A", f"10.96.0.{d}"), labels, namespaces, st.integers(1, 3)),
    st.builds(lambda n, s: Record(f"_http._tcp.{n}.{s}.svc.{Z}", "SRV", f"0 100 80 {n}.{s}.svc.{Z}"), labels, namespaces),
    st.builds(lambda d, n: Record(f"{d}.0.96.10.in-addr.arpa", "PTR", f"{n}.shop.svc.{Z}"), st.integers(1, 3), labels),
    st.builds(lambda n, s: Record(f"{n}.{s}.svc.{Z}", "AAAA", "fd00::1"), labels, namespaces),
)
questions = st.tuples(
    st.one_of(
        records.map(lambda record: record.name),
        st.sampled_from([Z, f"svc.{Z}", f"shop.svc.{Z}", f"_tcp.web.shop.svc.{Z}", f"x.y.{Z}", "0.96.10.in-addr.arpa"]),
    ),
    st.sampled_from(["A", "AAAA", "SRV", "PTR", "MX"]),
)


def naive(held: set[Record], name: str, rtype: str) -> tuple[int, set[str]]:
    """What RFC 1034 and RFC 8020 say, straight from the list of records."""
    always = {Z, f"svc.{Z}", f"pod.{Z}", "96.10.in-addr.arpa"}
    exists = any(record.name == name or record.name.endswith("." + name) for record in held) or name in always
    data = {record.data for record in held if (record.name, record.type) == (name, rtype)}
    return (0 if exists else 3), data


def ask(zone: Zone, name: str, rtype: str) -> dns.message.Message:
    query = parse_query(dns.message.make_query(name, rtype).to_wire())
    assert query is not None
    tail = answer(zone, AUTHORITIES, query)
    assert isinstance(tail, Tail)
    return dns.message.from_wire(render(query, tail, tcp=True))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sets(records, max_size=5), st.sets(records, max_size=5), questions), max_size=12))
def test_a_zone_after_any_deltas_answers_as_the_list_of_its_records(
    steps: list[tuple[set[Record], set[Record], tuple[str, str]]],
) -> None:
    zone, held = Zone(held=(Z, f"svc.{Z}", f"pod.{Z}")), set[Record]()
    for revision, (add, remove, (name, rtype)) in enumerate(steps, 1):
        ask(zone, name, rtype)
        zone.apply(ZoneDelta(frozenset(add), frozenset(remove - add)), revision)
        held = held - remove | add
        found = ask(zone, name, rtype)
        rcode, data = naive(held, name, rtype)
        assert found.rcode() == rcode
        assert {rr.to_text().rstrip(".") for rrset in found.answer for rr in rrset} == data
        assert [rrset.rdtype for rrset in found.authority] == ([] if data else [dns.rdatatype.SOA])
        assert len(zone) == len(held)
    zone.apply(ZoneDelta(remove=frozenset(held)))
    assert len(zone) == 0
    assert zone.find(to_key(f"shop.svc.{Z}")) is None
    assert zone.find(to_key(f"svc.{Z}")) is not None


def objects(namespace: str, name: str, ip: int, kind: str) -> tuple[Change, ...]:
    """One object of the small world below: a service of some kind with what belongs to it, a pod, or the absence of either."""
    meta = Meta(name, namespace, {"app": name})
    ports = (ServicePort(80, "TCP", "http"),)
    made: dict[str, Object | None] = {
        "virtual": Service(meta, cluster_ips=(f"10.96.0.{ip}",), ports=ports),
        "headless": Service(meta, headless=True, ports=ports, selector=selector_from_labels({"app": name})),
        "declared": Service(meta, headless=True, ports=ports),
        "external": Service(meta, type="ExternalName", external_name="www.example.com"),
        "pod": Pod(meta, (f"10.244.0.{ip}",), phase="Running", ready=ip % 2 == 0),
        "slice": EndpointSlice(meta, name, 4, (Endpoint((f"10.244.1.{ip}",), hostname="h"),), (SlicePort("http", 80),)),
    }
    kinds = {"pod": "Pod", "no pod": "Pod", "slice": "EndpointSlice", "no slice": "EndpointSlice"}
    return (Change(meta.key(kinds.get(kind, "Service")), made.get(kind)),)


KINDS = st.sampled_from(["virtual", "headless", "declared", "external", "no service", "pod", "no pod", "slice", "no slice"])
changes = st.builds(objects, namespaces, labels, st.integers(1, 3), KINDS)


@settings(max_examples=80, deadline=None)
@given(st.lists(changes, max_size=25))
def test_incremental_compilation_equals_compilation_from_nothing(steps: list[tuple[Change, ...]]) -> None:
    compiler, world = ZoneCompiler(), World()
    held = set(compiler.update(world, world, frozenset()).add)
    for revision, step in enumerate(steps, 1):
        after, touched = world.apply(step, revision)
        delta = compiler.update(world, after, touched)
        assert not delta.add & delta.remove
        held = held - delta.remove | delta.add
        world = after
    fresh = ZoneCompiler()
    fresh.update(World(), world, frozenset(world.objects.keys()))
    assert compiler.records == fresh.records
    assert held == compiler.records


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_octets_make_us_fail_and_every_reply_can_be_read(data: st.DataObject) -> None:
    zone = Zone(held=(Z,))
    zone.apply(ZoneDelta(add=frozenset({Record(f"web.shop.svc.{Z}", "A", "10.96.0.1")})), 1)
    rtype = data.draw(st.sampled_from(sorted(TYPES)))
    wire = bytearray(
        dns.message.make_query(f"web.shop.svc.{Z}", rtype, use_edns=data.draw(st.sampled_from([False, 0]))).to_wire()
    )
    for _ in range(data.draw(st.integers(0, 4))):
        wire[data.draw(st.integers(2, len(wire) - 1))] = data.draw(st.integers(0, 255))
    wire = wire[: data.draw(st.integers(0, len(wire)))]
    query = parse_query(bytes(wire))
    if query is None:
        return
    tail = answer(zone, AUTHORITIES, query)
    if isinstance(tail, Tail):
        reply = render(query, tail)
        assert reply[:2] == wire[:2]
        assert reply[12 : 12 + len(query.question)] == query.question
        # A reply to another opcode echoes a question whose class the readers may not know.
        if query.qclass == 1 and query.flags & 0x7800 == 0 and query.qtype in TYPES.values():
            dns.message.from_wire(reply)
            # dnslib reads names of ASCII octets only.
            if query.name.isascii():
                dnslib.DNSRecord.parse(reply)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 30))
def test_broken_upstream_replies_raise_wire_errors_only(junk: bytes, cut: int) -> None:
    made = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    made.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "CNAME", "a.example.com."))
    wire = made.to_wire()
    wire = wire[: len(wire) - cut] + junk
    try:
        parse_response(wire)
    except WireError:
        pass
