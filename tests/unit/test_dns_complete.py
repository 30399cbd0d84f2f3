"""Search paths gone through by the server: for whom, to what, and what it costs the second time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_address

import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from fairway_core.clock import FakeClock
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.complete import Completion
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.names import to_text
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, Delta, End
from fairway_dns.question import Asked
from fairway_dns.resolver import Resolver
from fairway_dns.response import Response, parse_response
from fairway_dns.table import Table
from fairway_dns.views import Fact, ViewDelta
from fairway_dns.zone import Record, Zone, ZoneDelta

Z = "cluster.local"
SHOP = f"shop.svc.{Z}"
INSIDE, NEIGHBOUR, OTHER, STRANGER = "10.244.0.5", "10.244.0.6", "10.244.0.7", "10.244.0.8"
FACTS = frozenset(
    {
        Fact("view", "s", ("shop", "acme")),
        Fact("view", "o", ("pay", "beta")),
        Fact("view", "off", ("", "acme")),
        Fact("address", INSIDE, ("s",)),
        Fact("address", NEIGHBOUR, ("off",)),
        Fact("address", OTHER, ("o",)),
        Fact("scope", "pay/secret", ("beta", "")),
    }
)
RECORDS = frozenset(
    {
        Record(f"web.pay.svc.{Z}", "A", "10.96.0.1", "pay/web"),
        Record(f"secret.pay.svc.{Z}", "A", "10.96.0.2", "pay/secret"),
        Record(f"mail.pay.svc.{Z}", "CNAME", "mail.example.com", "pay/mail"),
        Record(f"_http._tcp.web.pay.svc.{Z}", "SRV", f"0 100 80 web.pay.svc.{Z}", "pay/web"),
    }
)


class Upstream(Forwarder):
    """Has two names, of which one has no IPv6 address; remembers what it was asked."""

    names = ("www.example.com", "mail.example.com")

    def __init__(self, clock: FakeClock) -> None:
        super().__init__((), (), clock)
        self.seen: list[tuple[str, str]] = []

    def ask(self, asked: Asked, done: Callable[[Response], None]) -> None:
        name = to_text(asked.name)
        self.seen.append((name, dns.rdatatype.to_text(dns.rdatatype.RdataType(asked.qtype))))
        made = dns.message.make_response(dns.message.make_query(name, asked.qtype))
        if name not in self.names:
            made.set_rcode(dns.rcode.NXDOMAIN)
        elif asked.qtype == 1:
            made.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "A", "192.0.2.7"))
        if not made.answer:
            made.authority.append(dns.rrset.from_text("example.com.", 60, "IN", "SOA", "ns. h. 1 2 3 4 60"))
        done(parse_response(made.to_wire()))


class Bench:
    """A resolver with prepared replies over a small zone."""

    def __init__(self, scoped: bool = True) -> None:
        self.clock, self.prepared = FakeClock(), Prepared()
        self.upstream = Upstream(self.clock)
        self.table = Table(lambda: Zone((Z, f"svc.{Z}")), lambda moved: self.prepared.follow(self.table, moved))
        authorities = standard_authorities(Z)
        parts = authorities, Cache(self.clock), self.upstream, Counters(), logging.getLogger("test")
        self.resolver = Resolver(self.table, *parts, self.prepared, Completion(Z, authorities))
        self.asked = 0
        for frame in (Begin(1, scoped), Chunk(RECORDS, FACTS), End(1)):
            self.table.take(frame)

    async def ask(self, name: str, client: str = INSIDE, rtype: str = "A", rd: bool = True) -> dns.message.Message:
        self.asked += 1
        query = dns.message.make_query(name, rtype)
        query.flags = 0x100 if rd else 0
        wire, packed = query.to_wire(), ip_address(client).packed
        found = self.prepared.find(self.table.views.asker(packed), wire, self.clock.monotonic())
        if found is not None:
            return dns.message.from_wire(wire[:2] + found)
        reply = self.resolver.handle(wire, False, packed)
        assert reply is not None
        return dns.message.from_wire(reply if isinstance(reply, bytes) else await reply())

    def prepared_for(self, name: str, client: str = INSIDE) -> bool:
        wire = dns.message.make_query(name, "A").to_wire()
        asker = self.table.views.asker(ip_address(client).packed)
        return self.prepared.find(asker, wire, self.clock.monotonic()) is not None

    async def getaddrinfo(self, name: str, rtype: str = "A") -> list[str]:
        """As glibc with ndots:5 and the search list of a pod does it: the first name that has an answer."""
        for suffix in (f".{SHOP}", f".svc.{Z}", f".{Z}", ""):
            found = answers(await self.ask(name + suffix, rtype=rtype))
            if found:
                return found
        return []


def answers(message: dns.message.Message) -> list[str]:
    return [f"{rrset.name} {rr.to_text()}".replace(f".svc.{Z}.", "") for rrset in message.answer for rr in rrset]


def denied(message: dns.message.Message) -> bool:
    plain = not message.answer and [rrset.rdtype.name for rrset in message.authority] == ["SOA"]
    return plain and message.rcode() == dns.rcode.NXDOMAIN


async def test_one_query_instead_of_four() -> None:
    bench = Bench()
    assert (await bench.getaddrinfo("www.example.com"))[-1] == "www.example.com. 192.0.2.7"
    assert (bench.asked, bench.upstream.seen) == (1, [("www.example.com", "A")])
    without = Bench()
    without.table.take(
        Delta(
            ZoneDelta(
                views=ViewDelta(frozenset({Fact("address", INSIDE, ("off",))}), frozenset({Fact("address", INSIDE, ("s",))}))
            ),
            2,
        )
    )
    assert (await without.getaddrinfo("www.example.com"))[-1] == "www.example.com. 192.0.2.7"
    assert without.asked == 4


async def test_the_path_leads_to_the_first_name_that_has_an_address() -> None:
    bench = Bench()
    assert answers(await bench.ask(f"web.pay.{SHOP}")) == ["web.pay.shop web.pay", "web.pay 10.96.0.1"]
    assert answers(await bench.ask(f"web.pay.svc.{SHOP}")) == ["web.pay.svc.shop web.pay", "web.pay 10.96.0.1"]
    assert answers(await bench.ask(f"web.pay.svc.{Z}.{SHOP}"))[-1] == "web.pay 10.96.0.1"
    assert answers(await bench.ask(f"mail.pay.{SHOP}"))[1:] == ["mail.pay mail.example.com.", "mail.example.com. 192.0.2.7"]
    assert answers(await bench.ask(f"a.localhost.{SHOP}"))[-1] == "a.localhost. 127.0.0.1"
    assert denied(await bench.ask(f"_http._tcp.web.pay.{SHOP}"))


async def test_both_families_of_a_name_lead_to_the_same(bench: Bench) -> None:
    for name, target in ((f"web.pay.{SHOP}", "web.pay"), (f"www.example.com.{SHOP}", "www.example.com.")):
        for rtype in ("A", "AAAA", "A", "AAAA"):
            found = await bench.ask(name, rtype=rtype)
            assert found.rcode() == dns.rcode.NOERROR
            assert answers(found)[0].endswith(f" {target}")
            assert len(answers(found)) == (2 if rtype == "A" else 1)


async def test_what_leads_nowhere_is_denied_like_any_unknown_name(bench: Bench) -> None:
    unknown = await bench.ask(f"nope.{SHOP}")
    found = await bench.ask(f"no.example.com.{SHOP}")
    assert denied(found)
    assert found.authority[0].to_text() == unknown.authority[0].to_text()
    for rtype in ("MX", "SRV", "TXT", "ANY"):
        assert denied(await bench.ask(f"www.example.com.{SHOP}", rtype=rtype)), rtype
    assert denied(await bench.ask(f"www.example.com.{SHOP}", rd=False))
    assert ("www.example.com", "MX") not in bench.upstream.seen


async def test_nobody_else_gets_the_names_of_this_path(bench: Bench) -> None:
    name = f"www.example.com.{SHOP}"
    for client in (OTHER, STRANGER, NEIGHBOUR, INSIDE, INSIDE, OTHER, STRANGER, NEIGHBOUR):
        assert denied(await bench.ask(name, client)) is (client != INSIDE), client
    assert [name for name, _ in bench.upstream.seen] == ["www.example.com"]


async def test_a_hidden_name_is_not_completed_to() -> None:
    bench = Bench()
    assert denied(await bench.ask(f"secret.pay.{SHOP}"))
    assert denied(await bench.ask(f"secret.pay.svc.{Z}"))
    assert answers(await bench.ask(f"secret.pay.svc.{Z}", OTHER)) == ["secret.pay 10.96.0.2"]


@pytest.mark.parametrize("name", [f"www.example.com.{SHOP}", f"no.example.com.{SHOP}", f"web.pay.{SHOP}"])
async def test_the_second_time_nobody_is_asked_and_the_reply_is_ready(bench: Bench, name: str) -> None:
    first, second = [answers(await bench.ask(name)) for _ in range(2)]
    assert first == second
    assert bench.prepared_for(name)
    assert not bench.prepared_for(name, NEIGHBOUR)
    seen = len(bench.upstream.seen)
    bench.clock.advance(3)
    assert answers(await bench.ask(name)) == first
    assert len(bench.upstream.seen) == seen


async def test_a_service_that_appears_is_found_by_the_next_query(bench: Bench) -> None:
    for name in ("www.example.com", "no.example.com"):
        for _ in range(3):
            await bench.ask(f"{name}.{SHOP}")
        made = Record(f"{name}.svc.{Z}", "A", "10.96.0.9", f"com/{name}")
        bench.table.take(Delta(ZoneDelta(frozenset({made})), 2))
        assert answers(await bench.ask(f"{name}.{SHOP}"))[-1].endswith("10.96.0.9")
        bench.table.take(Delta(ZoneDelta(remove=frozenset({made})), 3))
        assert not any("10.96.0.9" in line for line in answers(await bench.ask(f"{name}.{SHOP}")))


async def test_replies_made_while_nobody_had_a_path_are_not_those_of_who_has_one() -> None:
    bench = Bench()
    every = frozenset(fact for fact in FACTS if fact.kind in ("view", "address"))
    bench.table.take(Delta(ZoneDelta(views=ViewDelta(remove=every)), 2))
    for frame in (Begin(3), Chunk(RECORDS), End(3)):
        bench.table.take(frame)
    for _ in range(3):
        assert denied(await bench.ask(f"www.example.com.{SHOP}"))
    bench.table.take(Delta(ZoneDelta(views=ViewDelta(every)), 4))
    assert answers(await bench.ask(f"www.example.com.{SHOP}"))[-1] == "www.example.com. 192.0.2.7"


@pytest.fixture(params=[True, False], ids=["scoped", "open"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench(request.param)
