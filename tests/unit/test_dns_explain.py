"""Explanations name the rule, and the answer in them is the one a resolver gives."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import dns.message
import dns.rcode
import pytest

from fairway_core.clock import FakeClock
from fairway_dns.cache import Cache
from fairway_dns.complete import Completion
from fairway_dns.config import Address, WorkerConfig
from fairway_dns.counters import Counters
from fairway_dns.explain import Explainer
from fairway_dns.fixed import authorities_of, empty_zone
from fairway_dns.forward import Forwarder
from fairway_dns.protocol import Frame, snapshot
from fairway_dns.resolver import Resolver
from fairway_dns.table import Table
from fairway_dns.views import Fact
from fairway_dns.wire import TYPES
from fairway_dns.zone import Record

Z = "svc.cluster.local"
CONFIG = WorkerConfig(
    "feed",
    ("127.0.0.1",),
    upstreams=(Address("192.0.2.53"),),
    private=("10.96.0.0/16",),
    hosts=(("ldap.corp.example", ("10.7.0.1",)),),
    stubs=(("corp.example", (Address("192.0.2.33"),)),),
)
RECORDS = (
    Record(f"web.shop.{Z}", "A", "10.96.0.10", "shop/web"),
    Record(f"api.pay.{Z}", "A", "10.96.0.11", "pay/api"),
    Record("10.0.96.10.in-addr.arpa", "PTR", f"web.shop.{Z}", "shop/web"),
    Record(f"out.shop.{Z}", "CNAME", "www.example.com", "shop/out"),
    Record(f"in.shop.{Z}", "CNAME", f"web.shop.{Z}", "shop/in"),
)
FACTS = (
    Fact("scope", "pay/api", ("blue", "")),
    Fact("view", "v1", ("shop", "red")),
    Fact("address", "10.244.0.5", ("v1",)),
    Fact("view", "v2", ("pay", "blue")),
    Fact("address", "10.244.0.6", ("v2",)),
)
RED, BLUE = ip_address("10.244.0.5").packed, ip_address("10.244.0.6").packed
FRAMES: list[Frame] = list(snapshot(RECORDS, 9, FACTS, scoped=True))


@pytest.fixture(scope="module")
def explainer() -> Explainer:
    return Explainer(CONFIG, FRAMES)


@pytest.mark.parametrize(
    ("name", "rtype", "client", "rule", "rcode"),
    [
        (f"web.shop.{Z}", "A", RED, "record", "NOERROR"),
        (f"web.shop.{Z}", "AAAA", RED, "denied", "NOERROR"),
        (f"in.shop.{Z}", "A", RED, "record", "NOERROR"),
        (f"nope.shop.{Z}", "A", RED, "denied", "NXDOMAIN"),
        (f"api.pay.{Z}", "A", RED, "hidden", "NXDOMAIN"),
        (f"api.pay.{Z}", "A", BLUE, "record", "NOERROR"),
        (f"api.pay.{Z}", "A", b"", "hidden", "NXDOMAIN"),
        ("10.0.96.10.in-addr.arpa", "PTR", RED, "record", "NOERROR"),
        ("9.0.96.10.in-addr.arpa", "PTR", RED, "denied", "NXDOMAIN"),
        ("1.0.168.192.in-addr.arpa", "PTR", RED, "special", "NXDOMAIN"),
        ("localhost", "A", RED, "special", "NOERROR"),
        ("x.onion", "A", RED, "special", "NXDOMAIN"),
        ("ldap.corp.example", "A", RED, "host", "NOERROR"),
        ("ldap.corp.example", "AAAA", RED, "host", "NOERROR"),
        (f"web.shop.shop.{Z}", "A", RED, "completed", "NOERROR"),
        (f"web.shop.shop.{Z}", "A", BLUE, "denied", "NXDOMAIN"),
        ("cluster.local", "AXFR", RED, "refused", "REFUSED"),
    ],
)
def test_the_rule_is_named_and_the_answer_is_the_resolvers(
    explainer: Explainer, name: str, rtype: str, client: bytes, rule: str, rcode: str
) -> None:
    qtype = {**TYPES, "AXFR": 252}[rtype]
    told = explainer.explain(name, qtype, client)
    assert (told.rule, told.rcode) == (rule, rcode)
    assert told.reasons
    reply = resolve(name, rtype, client)
    assert dns.rcode.to_text(reply.rcode()) == told.rcode
    assert sorted(told.records) == sorted(text for rrset in reply.answer for text in rrset.to_text().splitlines())


def resolve(name: str, rtype: str, client: bytes) -> dns.message.Message:
    clock, table, authorities = FakeClock(), Table(lambda: empty_zone(CONFIG)), authorities_of(CONFIG)
    for frame in FRAMES:
        table.take(frame)
    parts = Cache(clock), Forwarder((), (), clock), Counters(), logging.getLogger("test")
    resolver = Resolver(table, authorities, *parts, completion=Completion("cluster.local", authorities))
    reply = resolver.handle(dns.message.make_query(name, rtype).to_wire(), True, client)
    assert isinstance(reply, bytes)
    return dns.message.from_wire(reply)


@pytest.mark.parametrize(
    ("name", "rule", "forwarded", "servers"),
    [
        ("www.example.com", "upstream", "www.example.com", ("192.0.2.53:53",)),
        ("www.corp.example", "stub", "www.corp.example", ("192.0.2.33:53",)),
        (f"out.shop.{Z}", "record", "www.example.com", ("192.0.2.53:53",)),
        (f"www.example.com.shop.{Z}", "completed", "www.example.com", ("192.0.2.53:53",)),
    ],
)
def test_what_upstreams_know_is_said_to_be_theirs(
    explainer: Explainer, name: str, rule: str, forwarded: str, servers: tuple[str, ...]
) -> None:
    told = explainer.explain(name, 1, RED)
    assert (told.rule, told.rcode, told.forwarded, told.servers) == (rule, "", forwarded, servers)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("localhost", "RFC 6761, 6.3"),
        ("x.test", "RFC 6761, 6.2"),
        ("x.invalid", "RFC 6761, 6.4"),
        ("x.onion", "RFC 7686"),
        ("x.alt", "RFC 9476"),
        ("_dns.resolver.arpa", "RFC 9462"),
        ("1.0.168.192.in-addr.arpa", "RFC 6303, RFC 7793"),
    ],
)
def test_names_that_never_leave_say_by_which_rule(explainer: Explainer, name: str, source: str) -> None:
    assert explainer.explain(name, 64).reasons[0].endswith(f"never forwarded ({source})")


def test_before_the_first_table_that_is_the_reason() -> None:
    assert Explainer(CONFIG, []).explain(f"web.shop.{Z}", 1).rule == "not ready"


def test_what_is_no_name_is_told() -> None:
    with pytest.raises(ValueError, match="label"):
        Explainer(CONFIG, []).explain("a..b", 1)
