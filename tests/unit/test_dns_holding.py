"""Replies with watched names: what is told, when, to whom, and what happens if the agent does not answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from ipaddress import ip_address

import dns.message
import dns.rcode
import dns.rrset
import pytest

from fairway_core.clock import FakeClock
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.complete import Completion
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.holding import Holder, HoldLimits
from fairway_dns.learned import UNREADABLE, Admitted, Found, Learned, found_in
from fairway_dns.names import to_key, to_text
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, Delta, End, ProtocolError, decode, encode
from fairway_dns.question import Asked, client_query
from fairway_dns.resolver import Resolver
from fairway_dns.response import Response, parse_response
from fairway_dns.table import Moved, Table
from fairway_dns.views import Fact, ViewDelta
from fairway_dns.watch import Watch, pattern_key
from fairway_dns.wire import Tail, parse_query
from fairway_dns.zone import Record, Zone, ZoneDelta

Z = "cluster.local"
INSIDE, SAME, OUTSIDE = "10.0.0.1", "10.0.0.2", "10.0.0.9"
WEB = f"web.shop.svc.{Z}"
FACTS = {
    Fact("address", INSIDE, ("v",)), Fact("address", SAME, ("v",)), Fact("view", "v", ("shop", "")), Fact("watch", "v", ("7",)),
    *(Fact("pattern", "7", (pattern,)) for pattern in ("api.example.com", "*.cdn.example", f"*.svc.{Z}")),
}  # fmt: skip
RECORDS = {
    Record(WEB, "A", "10.96.0.1"), Record(WEB, "AAAA", "fd00:96::1"), Record(f"out.shop.svc.{Z}", "CNAME", "api.example.com"),
    *(Record(f"many.shop.svc.{Z}", "A", f"10.96.1.{n}") for n in range(20)),
}  # fmt: skip


class Upstream(Forwarder):
    """Has any name, with the addresses of the turn; names below `alias` by way of another name."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__((), (), clock)
        self.hosts, self.ttl = ["192.0.2.7"], 60

    def ask(self, asked: Asked, waiter: Callable[[Response], None]) -> None:
        name = to_text(asked.name) + "."
        made = dns.message.make_response(dns.message.make_query(name, asked.qtype))
        if name.endswith("alias."):
            made.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", "api.example.com."))
            name = "api.example.com."
        if asked.qtype == 1:
            made.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "A", *self.hosts))
        waiter(parse_response(made.to_wire()))


class Bench:
    """A resolver as a worker has it; `asked` is what the agent was asked."""

    def __init__(self, limits: HoldLimits | None = None) -> None:
        self.clock, self.prepared, self.counters = FakeClock(), Prepared(), Counters()
        self.holder = Holder(self.clock, self.counters, limits)
        self.upstream = Upstream(self.clock)
        self.table = Table(lambda: Zone((Z, f"svc.{Z}")), self._moved)
        authorities = standard_authorities(Z)
        parts = authorities, Cache(self.clock), self.upstream, self.counters, logging.getLogger("test")
        self.resolver = Resolver(self.table, *parts, self.prepared, Completion(Z, authorities), holder=self.holder)
        self.asked: list[Learned] = []
        self.holder.connect(self._send)
        for frame in (Begin(1), Chunk(frozenset(RECORDS), frozenset(FACTS)), End(1)):
            self.table.take(frame)

    def _moved(self, moved: Moved) -> None:
        self.prepared.follow(self.table, moved)
        if moved.patterns:
            self.holder.forget()

    def _send(self, learned: Learned) -> bool:
        assert decode(encode(learned)[4:]) == learned
        self.asked.append(learned)
        return True

    def change(self, revision: int, add: set[Fact], remove: set[Fact]) -> None:
        self.table.take(Delta(ZoneDelta(views=ViewDelta(frozenset(add), frozenset(remove))), revision))

    def begin(self, name: str, client: str = INSIDE, rtype: str = "A") -> asyncio.Future[dns.message.Message]:
        """Ask by the way that a datagram takes."""
        wire, packed = client_query(b"\0\1", to_key(name), {"A": 1, "AAAA": 28}[rtype]), ip_address(client).packed
        future: asyncio.Future[dns.message.Message] = asyncio.get_running_loop().create_future()
        found = self.prepared.find(self.table.views.asker(packed), wire, self.clock.monotonic())
        reply = wire[:2] + found if found is not None else self.resolver.handle(wire, False, packed)
        assert reply is not None
        if isinstance(reply, bytes):
            future.set_result(dns.message.from_wire(reply))
        else:
            reply.start(lambda octets, _ticket: future.set_result(dns.message.from_wire(octets)), None)
        return future

    def admit(self, seconds: float = 120.0) -> Found:
        """The agent answers the oldest question."""
        learned = self.asked.pop(0)
        self.holder.admitted(Admitted(learned.ticket, seconds))
        return learned.found

    def told(self, name: str, client: str = INSIDE, rtype: str = "A") -> list[str]:
        """What is told at once; nothing if the reply is held."""
        future = self.begin(name, client, rtype)
        return addresses(future.result()) if future.done() else []


def addresses(message: dns.message.Message) -> list[str]:
    assert message.rcode() == dns.rcode.NOERROR
    return [rr.address for rrset in message.answer for rr in rrset if rr.rdtype.name in ("A", "AAAA")]


@pytest.mark.parametrize("rtype", ["A", "AAAA"])
async def test_a_name_of_ours_is_told_once_its_addresses_are_let_through(rtype: str) -> None:
    bench = Bench()
    first, second = bench.begin(WEB, rtype=rtype), bench.begin(WEB, SAME, rtype)
    assert not first.done()
    assert bench.told(WEB, OUTSIDE, rtype), "nobody else waits"
    assert len(bench.asked) == 1, "one question for all who wait for the same"
    there = "10.96.0.1" if rtype == "A" else "fd00:96::1"
    assert bench.admit() == Found((7,), (WEB,), (there,), 5)
    assert addresses(first.result()) == addresses(second.result()) == [there]
    assert bench.told(WEB, SAME, rtype) == [there]
    assert (bench.counters.values["held:admitted"], bench.holder.held) == (2, 0)


async def test_a_cached_answer_is_asked_about_once_in_its_life() -> None:
    bench = Bench()
    bench.begin("api.example.com")
    bench.admit(61)
    for _ in range(59):
        bench.clock.advance(1)
        assert bench.told("api.example.com") == ["192.0.2.7"]
    assert not bench.asked, "its TTL goes down as its admission does"
    assert bench.counters.values["fast:"] > 5
    bench.clock.advance(2)
    assert not bench.told("api.example.com"), "a new one lives longer than what is let through"
    assert bench.admit().ttl == 60


async def test_a_reply_that_would_outlive_its_admission_is_asked_about_again() -> None:
    bench = Bench()
    bench.begin(WEB)
    bench.admit(20)
    for _ in range(14):
        bench.clock.advance(1)
        assert bench.told(WEB) == ["10.96.0.1"]
    bench.clock.advance(2)
    assert bench.told(WEB) == [], "5 s of TTL, 4 s of admission"
    bench.admit(20)
    assert bench.told(WEB) == ["10.96.0.1"]


async def test_new_addresses_of_a_name_are_asked_about_all_together() -> None:
    bench = Bench()
    bench.begin("a.cdn.example")
    bench.admit()
    bench.upstream.hosts = ["192.0.2.7", "192.0.2.8"]
    bench.clock.advance(61)
    assert bench.told("a.cdn.example") == []
    assert bench.admit() == Found((7,), ("a.cdn.example",), ("192.0.2.7", "192.0.2.8"), 60)
    assert sorted(bench.told("a.cdn.example")) == ["192.0.2.7", "192.0.2.8"]


async def test_what_is_not_watched_does_not_wait() -> None:
    bench = Bench()
    for name in ("cdn.example", "www.example.com", "x.api.example.com"):
        assert bench.told(name) == ["192.0.2.7"], name
    assert bench.told("nothing.api.example.com", rtype="AAAA") == []
    assert not bench.asked


async def test_many_names_and_many_addresses() -> None:
    bench = Bench()
    waiting = [bench.begin(f"n{number}.cdn.example") for number in range(300)]
    assert len(bench.asked) == 300
    while bench.asked:
        bench.admit()
    assert all(addresses(one.result()) == ["192.0.2.7"] for one in waiting)
    bench.begin(f"many.shop.svc.{Z}")
    assert len(bench.admit().addresses) == 20
    assert len(bench.told(f"many.shop.svc.{Z}")) == 20
    orders = {tuple(bench.told(f"many.shop.svc.{Z}")) for _ in range(8)}
    assert len(orders) > 1, "a watched name is spread as others are"


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (f"api.example.com.shop.svc.{Z}", (f"api.example.com.shop.svc.{Z}", "api.example.com")),
        (f"out.shop.svc.{Z}", (f"out.shop.svc.{Z}", "api.example.com")),
        (f"web.shop.shop.svc.{Z}", (f"web.shop.shop.svc.{Z}", WEB)),
        ("x.y.cdn.example", ("x.y.cdn.example",)),
    ],
)
async def test_names_behind_completion_and_chains(asked: str, names: tuple[str, ...]) -> None:
    bench = Bench()
    bench.change(2, set(), {Fact("pattern", "7", (f"*.svc.{Z}",))})
    bench.change(3, {Fact("pattern", "7", (names[-1],))}, set())
    held = bench.begin(asked)
    assert bench.admit().names == names[-1:], "the name that was meant"
    bench.change(4, {Fact("pattern", "7", (asked,))}, set())
    assert not bench.told(asked), "other patterns, other rights"
    assert set(bench.admit().names) == set(names), "and the name asked for"
    assert addresses(held.result())


async def test_an_alias_that_an_upstream_claims_lets_nothing_through() -> None:
    bench = Bench()
    assert bench.told("evil.alias") == ["192.0.2.7"]
    assert not bench.asked
    bench.change(2, {Fact("pattern", "7", ("good.alias",))}, set())
    bench.begin("good.alias")
    assert bench.admit() == Found((7,), ("good.alias",), ("192.0.2.7",), 60), "a chain in the answer is its own matter"


async def test_without_an_agent_what_was_let_through_goes_on_and_the_rest_fails() -> None:
    bench = Bench()
    bench.begin(WEB)
    bench.admit()
    waiting = bench.begin("api.example.com")
    bench.holder.disconnect()
    for reply in (waiting.result(), bench.begin("api.example.com").result()):
        assert (reply.rcode(), reply.options[0].otype) == (dns.rcode.SERVFAIL, 15)
        assert "let through" in str(reply.options[0].to_text())
    assert bench.told(WEB) == ["10.96.0.1"]
    assert bench.told("www.example.com") == ["192.0.2.7"]
    bench.asked.clear()
    bench.holder.connect(bench._send)
    assert not bench.told("api.example.com")
    bench.admit()
    assert bench.told("api.example.com") == ["192.0.2.7"]


async def test_a_slow_agent_costs_a_bounded_time_and_nobody_else() -> None:
    bench = Bench(HoldLimits(patience=0.05))
    held = bench.begin("api.example.com")
    assert bench.told("www.example.com") == ["192.0.2.7"]
    async with asyncio.timeout(5):
        assert (await held).rcode() == dns.rcode.SERVFAIL
    bench.admit()
    assert not bench.told("api.example.com"), "too late is not in time; it is asked again"
    bench.admit()
    assert bench.told("api.example.com") == ["192.0.2.7"]
    assert bench.counters.values["held:late"] == 1


async def test_what_the_agent_refuses_and_what_is_too_much_fails_at_once() -> None:
    bench = Bench(HoldLimits(flights=2, waiters=3))
    held = [bench.begin(name) for name in ("a.cdn.example", "b.cdn.example", "b.cdn.example")]
    for name in ("c.cdn.example", "a.cdn.example"):
        assert bench.begin(name).result().rcode() == dns.rcode.SERVFAIL
    bench.admit(0)
    assert held[0].result().rcode() == dns.rcode.SERVFAIL
    assert not held[1].done()
    bench.admit()
    assert addresses(held[2].result())
    counted = bench.counters.values
    assert (counted["held:full"], counted["held:refused"], counted["held:admitted"]) == (2, 1, 2)


async def test_memory_of_what_is_let_through_is_bounded() -> None:
    bench = Bench(HoldLimits(known=10))
    for number in range(25):
        bench.begin(f"n{number}.cdn.example")
        bench.admit()
        assert bench.told(f"n{number}.cdn.example") == ["192.0.2.7"]
    bench.prepared.follow(bench.table, Moved(None))
    assert bench.told("n0.cdn.example") == []


async def test_other_patterns_count_from_the_next_answer_on() -> None:
    bench = Bench()
    assert bench.told("late.example") == ["192.0.2.7"]
    bench.change(2, {Fact("pattern", "7", ("late.example",))}, set())
    assert bench.told("late.example") == []
    bench.change(3, set(), {Fact("pattern", "7", ("late.example",))})
    assert bench.told("late.example") == ["192.0.2.7"]
    bench.change(4, set(), {Fact("watch", "v", ("7",))})
    assert bench.told(WEB) == ["10.96.0.1"]
    assert (bench.table.views.watching, bench.prepared.apart) == (0, False)


def test_patterns() -> None:
    watch = Watch.of({(1, "Example.com"), (2, "*.example.com"), (3, "*.com"), (4, "a.example.com"), (5, "*.a.example.com")})
    assert watch == Watch.of(watch.patterns)
    found = {name: watch.scopes(to_key(name)) for name in ("com", "example.com", "a.example.com", "b.a.example.com", "x.org", "")}
    assert found == {
        "com": (), "example.com": (1, 3), "a.example.com": (2, 3, 4), "b.a.example.com": (2, 3, 5), "x.org": (), "": (),
    }  # fmt: skip
    for wrong in ("", "*", "*.", "a.*.b", "x*", "a..b", "*.*.a", "a" * 64):
        with pytest.raises(ValueError, match=r"pattern|label"):
            pattern_key(wrong)


@pytest.mark.parametrize("fact", [Fact("watch", "v", ("0",)), Fact("watch", "v", ("x",)), Fact("pattern", "7", ("a.*.b",))])
def test_facts_that_make_no_sense_are_refused(fact: Fact) -> None:
    bench = Table(Zone)
    with pytest.raises(ProtocolError):
        for frame in (Begin(1), Chunk(frozenset(), frozenset({fact})), End(1)):
            bench.take(frame)


def test_what_cannot_be_read_is_told_to_nobody() -> None:
    query = parse_query(client_query(b"\0\1", to_key("a.example"), 1))
    assert query is not None
    watch = Watch.of({(1, "a.example")})
    assert found_in(watch, query, Tail(answers=2, body=b"\xc0\x0c\0\1\0\1")) == UNREADABLE
    assert found_in(watch, query, Tail()) is None
    for junk in (b'["learned",1,[1],["a"],["x"],5]', b'["learned",1,["x"],["a"],["::1"],5]', b'["admitted",1]'):
        with pytest.raises(ProtocolError):
            decode(junk)
    assert decode(encode(Admitted(3, 1.5))[4:]) == Admitted(3, 1.5)
