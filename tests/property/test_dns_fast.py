"""Whatever happened before: a prepared reply has the octets that the slow path would give now, or there is none."""

from __future__ import annotations

import logging
import struct

import dns.message
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.clock import FakeClock
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Asked, Cache
from fairway_dns.counters import Counters
from fairway_dns.fastcache import FastLimits
from fairway_dns.forward import Forwarder
from fairway_dns.names import to_key
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, Delta, End
from fairway_dns.resolver import Resolver
from fairway_dns.response import parse_response
from fairway_dns.table import Table
from fairway_dns.zone import Record, Zone, ZoneDelta

Z = "shop.svc.cluster.local"
RECORDS = (
    *(Record(f"web.{Z}", "A", f"10.96.0.{n}") for n in range(1, 4)),
    Record(f"web.{Z}", "AAAA", "fd00::1"),
    Record(f"a.web.{Z}", "A", "10.1.1.1"),
    Record(f"alias.{Z}", "CNAME", f"web.{Z}"),
    Record(f"gone.{Z}", "CNAME", f"none.{Z}"),
    Record(f"out.{Z}", "CNAME", "www.example.com"),
    Record(f"_http._tcp.web.{Z}", "SRV", f"0 100 80 a.web.{Z}"),
    Record("www.example.com", "A", "192.0.2.99"),
    *(Record(f"big.{Z}", "A", f"10.2.0.{n}") for n in range(60)),
)
NAMES = sorted(
    {record.name for record in RECORDS} | {Z, f"none.{Z}", f"_tcp.web.{Z}", "localhost", "x.invalid", "mail.example.com"}
)


class Pair:
    """Two resolvers over one table and one cache, of which only the first may prepare replies."""

    def __init__(self, limits: FastLimits) -> None:
        self.clock = FakeClock()
        self.fast = Prepared(limits)
        self.table = Table(Zone, lambda moved: self.fast.follow(self.table, moved))
        self.cache = Cache(self.clock)
        self.quick, self.slow = self._resolver(self.fast), self._resolver(None)
        self.revision = 1

    def _resolver(self, fast: Prepared | None) -> Resolver:
        forwarder = Forwarder((), (), self.clock)
        log = logging.getLogger("test")
        return Resolver(self.table, standard_authorities("cluster.local"), self.cache, forwarder, Counters(), log, fast)

    def ask(self, data: bytes, at_once: bool = False) -> bytes | None:
        """What the batch loop would do, from what is prepared or can be made `at_once`; checked against the slow path."""
        now = self.clock.monotonic()
        asker = self.table.views.anybody
        entry = self.fast.shared(asker).hot.get(data[2:])
        found = None
        if entry is not None and entry[2] > now:
            found = entry[0] if entry[3] is None else entry[3]()
            assert len(found) + 2 == entry[1]
        found = found or self.fast.find(asker, data, now)
        if found is None and at_once:
            assert self.quick.fresh is not None
            found = self.quick.fresh.reply(asker, data)
        if found is None:
            self.quick.handle(data, tcp=False)
            return None
        assert data[:2] + found in {self.slow.handle(data, tcp=False) for _ in range(16)}
        return found

    def snapshot(self, records: frozenset[Record]) -> None:
        self.revision += 1
        for frame in (Begin(self.revision), Chunk(records), End(self.revision)):
            self.table.take(frame)

    def change(self, record: Record) -> None:
        if self.table.zone.revision is None:
            return
        self.revision += 1
        node = self.table.zone.find(to_key(record.name))
        there = node is not None and any(record.data in data for data in node.sets.values())
        one = frozenset({record})
        self.table.take(Delta(ZoneDelta(remove=one) if there else ZoneDelta(add=one), self.revision))

    def learn(self, name: str, ttl: int, count: int) -> None:
        made = dns.message.make_response(dns.message.make_query(name, "A"))
        made.answer.append(dns.rrset.from_text(f"{name}.", ttl, "IN", "A", *(f"192.0.2.{n}" for n in range(count))))
        self.cache.put(Asked(to_key(name), 1), parse_response(made.to_wire()))


@st.composite
def queries(draw: st.DrawFn) -> bytes:
    """Well-formed queries of every shape, and a few that are not."""
    name = to_key(draw(st.sampled_from(NAMES)))
    mask = draw(st.integers(0, 1 << len(name)))
    mixed = bytes(c - 32 if mask >> i & 1 and 0x61 <= c <= 0x7A else c for i, c in enumerate(name))
    flags = draw(st.sampled_from([0x0100, 0x0100, 0x0100, 0, 0x0110, 0x0120, 0x8100, 0x2900]))
    opt = draw(
        st.sampled_from([b"", b"", _opt(512), _opt(1232), _opt(4096, 0x8000), _opt(700, 1 << 16), _opt(1232, 0, b"\0\3\0\0")])
    )
    qtype = draw(st.sampled_from([1, 1, 1, 28, 33, 5, 65, 97, 16, 6, 255, 252]))
    qclass = draw(st.sampled_from([1, 1, 1, 1, 3]))
    junk = draw(st.sampled_from([b"", b"", b"", b"\0", b"xyz"]))
    ident = draw(st.integers(0, 65535))
    head = struct.pack("!HHHHHH", ident, flags, 1, 0, 0, int(bool(opt)))
    return head + mixed + struct.pack("!HH", qtype, qclass) + opt + junk


def _opt(size: int, ttl: int = 0, data: bytes = b"") -> bytes:
    return b"\0" + struct.pack("!HHIH", 41, size, ttl, len(data)) + data


steps = st.one_of(
    st.tuples(st.just("ask"), queries()),
    st.tuples(st.just("ask"), queries()),
    st.tuples(st.just("change"), st.sampled_from(RECORDS)),
    st.tuples(st.just("snapshot"), st.frozensets(st.sampled_from(RECORDS))),
    st.tuples(
        st.just("learn"),
        st.tuples(st.sampled_from(["www.example.com", "mail.example.com"]), st.integers(1, 9), st.integers(1, 60)),
    ),
    st.tuples(st.just("wait"), st.floats(0.05, 4)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=40), st.booleans(), st.booleans())
def test_prepared_replies_are_those_of_the_slow_path(script: list[tuple[str, object]], small: bool, at_once: bool) -> None:
    pair = Pair(FastLimits(4, 2000, 3) if small else FastLimits())
    pair.snapshot(frozenset(RECORDS))
    if at_once:
        assert pair.quick.fresh is not None
        pair.quick.fresh.prepare()
    for kind, value in script:
        if kind == "ask":
            assert isinstance(value, bytes)
            pair.ask(value, at_once)
            pair.ask(value, at_once)
        elif kind == "change":
            pair.change(value)  # type: ignore[arg-type]
        elif kind == "snapshot":
            pair.snapshot(value)  # type: ignore[arg-type]
        elif kind == "learn":
            pair.learn(*value)  # type: ignore[misc]
        else:
            pair.clock.advance(value)  # type: ignore[arg-type]


def test_plain_queries_are_prepared_and_mixed_case_shares_their_entry() -> None:
    pair = Pair(FastLimits())
    pair.snapshot(frozenset(RECORDS))
    pair.learn("www.example.com", 9, 2)
    for name in (f"web.{Z}", f"nope.{Z}", "www.example.com", f"_http._tcp.web.{Z}"):
        for edns in (-1, 0):
            wire = dns.message.make_query(name, "A", use_edns=edns).to_wire()
            assert pair.ask(wire) is None
            assert pair.ask(wire) is not None
            entries = len(pair.fast)
            for shape in (name.upper(), name.title()):
                mixed = dns.message.make_query(shape, "A", use_edns=edns).to_wire()
                found = pair.ask(mixed)
                assert found is not None
                assert found[10 : len(name) + 16] == mixed[12 : len(name) + 18]
            assert len(pair.fast) == entries


def test_changes_reach_exactly_what_they_may_alter() -> None:
    pair = Pair(FastLimits())
    pair.snapshot(frozenset(RECORDS))
    wires = {name: dns.message.make_query(f"{name}.{Z}", "A").to_wire() for name in ("web", "a.web", "new")}
    for wire in wires.values():
        pair.ask(wire)
    pair.change(Record(f"new.{Z}", "A", "10.96.0.77"))
    assert pair.ask(wires["web"]) is not None
    assert pair.ask(wires["new"]) is None
    found = pair.ask(wires["new"])
    assert found is not None
    assert found[-4:] == bytes([10, 96, 0, 77])
    pair.change(Record(f"a.web.{Z}", "A", "10.1.1.1"))
    assert pair.ask(wires["a.web"]) is None


def test_memory_is_bounded_and_what_is_in_use_stays() -> None:
    pair = Pair(FastLimits(entries=100, octets=1 << 20, volatile=50))
    pair.snapshot(frozenset(RECORDS))
    web = dns.message.make_query(f"web.{Z}", "A").to_wire()
    pair.ask(web)
    for number in range(2000):
        pair.learn(f"j{number}.example", 60, 1)
        pair.ask(dns.message.make_query(f"j{number}.example", "A").to_wire())
        pair.ask(dns.message.make_query(f"j{number}.{Z}", "A").to_wire())
        if number % 20 == 0:
            assert pair.ask(web) is not None
    assert len(pair.fast) <= 250


def test_ttls_count_down_in_prepared_replies_until_they_expire() -> None:
    pair = Pair(FastLimits())
    pair.snapshot(frozenset())
    pair.learn("www.example.com", 9, 2)
    for edns in (-1, 0):
        wire = dns.message.make_query("www.example.com", "A", use_edns=edns).to_wire()
        pair.ask(wire)
    for age in range(1, 9):
        pair.clock.advance(1)
        found = pair.ask(wire)
        assert found is not None
        assert dns.message.from_wire(wire[:2] + found).answer[0].ttl == 9 - age
    pair.clock.advance(1)
    assert pair.ask(wire) is None


def test_long_ttls_are_counted_down_in_steps_and_never_too_high() -> None:
    pair = Pair(FastLimits())
    pair.snapshot(frozenset())
    pair.learn("www.example.com", 3000, 2)
    wire = dns.message.make_query("www.example.com", "A").to_wire()
    pair.quick.handle(wire, tcp=False)
    seen = []
    for age in range(1, 3000):
        pair.clock.advance(1)
        found = pair.fast.find(pair.table.views.anybody, wire, pair.clock.monotonic())
        assert found is not None
        ttl = dns.message.from_wire(wire[:2] + found).answer[0].ttl
        left = 3000 - age
        assert left - left // 64 - 1 <= ttl <= left
        seen.append(ttl)
    assert len(set(seen)) < 500, "a reply is written anew far less than once a second"
    assert seen == sorted(seen, reverse=True)
    pair.clock.advance(1)
    assert pair.fast.find(pair.table.views.anybody, wire, pair.clock.monotonic()) is None


def test_types_that_differ_by_the_case_bit_only_are_different_questions() -> None:
    pair = Pair(FastLimits())
    pair.snapshot(frozenset(RECORDS))
    for qtype in (65, 97, 65, 97):
        wire = dns.message.make_query("localhost", qtype).to_wire()
        pair.ask(wire)
        mixed = wire[:12] + wire[12:22].upper() + wire[22:]
        found = pair.ask(mixed)
        assert found is not None
        assert found[10:24] == mixed[12:26]
