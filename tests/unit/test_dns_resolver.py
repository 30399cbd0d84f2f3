"""What becomes of a query when something behind it is broken."""

from __future__ import annotations

import logging

import dns.message
import dns.rcode
import dns.rrset

from fairway_core.clock import FakeClock
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.names import to_key
from fairway_dns.question import Asked
from fairway_dns.resolver import Resolver
from fairway_dns.response import parse_response
from fairway_dns.table import Table
from fairway_dns.zone import Record, Zone, ZoneDelta

BROKEN, FINE = "broken.shop.svc.cluster.local", "fine.shop.svc.cluster.local"


class Bench:
    """A resolver without upstreams, and its parts in reach."""

    def __init__(self) -> None:
        self.clock, self.counters, self.table = FakeClock(), Counters(), Table(Zone)
        self.cache = Cache(self.clock)
        forwarder = Forwarder((), (), self.clock)
        authorities = standard_authorities("cluster.local")
        self.resolver = Resolver(self.table, authorities, self.cache, forwarder, self.counters, logging.getLogger("test"))
        self.table.zone.apply(ZoneDelta(frozenset({Record(BROKEN, "A", "junk"), Record(FINE, "A", "10.96.0.1")})), 1)

    async def ask(self, name: str, tcp: bool = False) -> dns.message.Message:
        reply = self.resolver.handle(dns.message.make_query(name, "A").to_wire(), tcp)
        assert reply is not None
        return dns.message.from_wire(reply if isinstance(reply, bytes) else await reply())


async def test_data_that_cannot_be_sent_fails_one_name_only() -> None:
    bench = Bench()
    assert (await bench.ask(BROKEN)).rcode() == dns.rcode.SERVFAIL
    assert (await bench.ask(FINE)).answer[0][0].address == "10.96.0.1"
    assert bench.counters.values == {
        "queries:A": 2, "transport:udp": 2, "errors:": 1, "replies:SERVFAIL": 1, "replies:NOERROR": 1,
        "answers:service/A/SERVFAIL/udp/local": 1, "answers:service/A/NOERROR/udp/local": 1,
    }  # fmt: skip


async def test_without_any_upstream_foreign_names_fail_and_old_answers_stand_in() -> None:
    bench = Bench()
    assert (await bench.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
    bench.clock.advance(5)
    made = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    made.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "A", "192.0.2.1"))
    bench.cache.put(Asked(to_key("www.example.com"), 1), parse_response(made.to_wire()))
    bench.clock.advance(20)
    assert (await bench.ask("www.EXAMPLE.com")).answer[0].ttl == 40
    bench.clock.advance(100)
    found = await bench.ask("www.example.com", tcp=True)
    assert (found.answer[0].ttl, found.answer[0][0].address) == (30, "192.0.2.1")
    counted = bench.counters.values
    assert (counted["cache_hits:"], counted["stale:"], counted["forwarded:"], counted["transport:tcp"]) == (1, 1, 2, 1)


def test_replies_sent_to_us_are_counted_and_dropped() -> None:
    bench = Bench()
    assert bench.resolver.handle(b"\0\1\x80\0" + bytes(8), False) is None
    assert bench.counters.values == {"dropped:": 1}


async def test_upstreams_that_failed_are_not_waited_for_again_at_once() -> None:
    bench = Bench()
    made = dns.message.make_response(dns.message.make_query("www.example.com", "A"))
    made.answer.append(dns.rrset.from_text("www.example.com.", 60, "IN", "A", "192.0.2.1"))
    bench.cache.put(Asked(to_key("www.example.com"), 1), parse_response(made.to_wire()))
    bench.clock.advance(100)
    assert (await bench.ask("www.example.com")).answer[0].ttl == 30
    bench.clock.advance(9)
    assert (await bench.ask("www.example.com")).answer[0].ttl == 21
    assert bench.counters.values["forwarded:"] == 1
    bench.clock.advance(2)
    assert (await bench.ask("www.example.com")).answer[0].ttl == 30
    assert bench.counters.values["forwarded:"] == 2
    for _ in range(9000):
        bench.clock.advance(10)
        await bench.ask("www.example.com")
    assert (await bench.ask("www.example.com")).rcode() == dns.rcode.SERVFAIL
