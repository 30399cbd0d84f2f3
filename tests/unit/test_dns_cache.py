"""Upstream replies: reading, ageing, keeping."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from fairway_core.clock import FakeClock
from fairway_dns.cache import Cache, CacheLimits
from fairway_dns.names import to_key
from fairway_dns.question import Asked
from fairway_dns.response import Response, join_chain, matches, matches_but_case, parse_response
from fairway_dns.wire import SERVFAIL, Query, Tail, WireError, parse_query, render

NAME = "www.example.com"
ASKED = Asked(to_key(NAME), 1)
SOA = "ns.example.com. admin.example.com. 1 2 3 4 60"


def reply(*answers: str, rcode: int = 0, soa: str = "", soa_ttl: int = 300, edns: bool = True, flags: int = 0) -> bytes:
    made = dns.message.make_response(dns.message.make_query(NAME, "A", use_edns=0 if edns else False))
    made.set_rcode(dns.rcode.Rcode(rcode))
    made.flags |= flags
    for text in answers:
        owner, ttl, rtype, data = text.split(" ", 3)
        made.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rtype, data))
    if soa:
        made.authority.append(dns.rrset.from_text("example.com.", soa_ttl, "IN", "SOA", soa))
    return made.to_wire()


def shown(tail: Tail, name: str = NAME) -> dns.message.Message:
    query = parse_query(dns.message.make_query(name, "A").to_wire())
    assert isinstance(query, Query)
    return dns.message.from_wire(render(query, tail, tcp=True))


def fresh(cache: Cache) -> Tail | None:
    kept = cache.get(ASKED)
    return None if kept is None else kept.tail


def test_the_least_ttl_of_an_answer_counts_down() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    cache.put(ASKED, parse_response(reply(f"{NAME}. 300 CNAME a.example.com.", "a.example.com. 30 A 192.0.2.1")))
    clock.advance(10.5)
    found = fresh(cache)
    assert found is not None
    assert [rrset.ttl for rrset in shown(found).answer] == [290, 20]
    clock.advance(19.5)
    assert cache.get(ASKED) is None


def test_opt_of_the_upstream_is_removed() -> None:
    response = parse_response(reply(f"{NAME}. 300 A 192.0.2.1"))
    assert (response.tail.additional, shown(response.tail).opt) == (0, None)


@pytest.mark.parametrize("rcode", [0, 3])
def test_denials_are_kept_as_their_soa_says(rcode: int) -> None:
    clock = FakeClock()
    cache = Cache(clock)
    cache.put(ASKED, parse_response(reply(rcode=rcode, soa=SOA)))
    clock.advance(59)
    found = fresh(cache)
    assert found is not None
    assert (found.rcode, shown(found).authority[0].ttl) == (rcode, 1)
    clock.advance(1)
    assert cache.get(ASKED) is None


@pytest.mark.parametrize(("soa_ttl", "minimum"), [(3600, 60), (60, 3600), (60, 60)])
def test_whoever_keeps_a_denial_of_ours_keeps_it_no_longer_than_we(soa_ttl: int, minimum: int) -> None:
    clock = FakeClock()
    cache = Cache(clock)
    soa = f"ns.example.com. admin.example.com. 1 2 3 4 {minimum}"
    cache.put(ASKED, parse_response(reply(rcode=3, soa=soa, soa_ttl=soa_ttl)))
    clock.advance(45)
    found = fresh(cache)
    assert found is not None
    assert [rrset.ttl for rrset in shown(found).authority] == [15]


def test_denials_without_soa_referrals_and_zero_ttls_are_not_kept() -> None:
    cache = Cache(FakeClock())
    for data in (reply(rcode=3), reply(), reply(f"{NAME}. 0 A 192.0.2.1"), reply(f"{NAME}. 60 CNAME x.example.")):
        cache.put(ASKED, parse_response(data))
    assert len(cache) == 0


def test_limits_of_lifetime() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    cache.put(ASKED, parse_response(reply(f"{NAME}. 999999 A 192.0.2.1")))
    clock.advance(3600)
    assert cache.get(ASKED) is None
    cache.put(ASKED, Response(Tail(SERVFAIL), 300))
    assert fresh(cache) == Tail(SERVFAIL, ede=13, text="failed a moment ago")
    clock.advance(5)
    assert cache.get(ASKED) is None
    cache.put(ASKED, Response(Tail(SERVFAIL), 0))
    assert cache.get(ASKED) is None


def test_stale_answers_serve_for_a_day_but_stale_denials_never() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    cache.put(ASKED, parse_response(reply(f"{NAME}. 60 A 192.0.2.1")))
    denied = Asked(to_key("no.example.com"), 1)
    cache.put(denied, parse_response(reply(rcode=3, soa=SOA)))
    clock.advance(3600)
    found = cache.get_stale(ASKED)
    assert found is not None
    assert shown(found).answer[0].ttl == 30
    assert cache.get_stale(denied) is None
    clock.advance(86400)
    assert cache.get_stale(ASKED) is None


def test_the_cache_is_bounded_and_forgets_the_least_used() -> None:
    cache = Cache(FakeClock(), CacheLimits(entries=3))
    response = parse_response(reply(f"{NAME}. 60 A 192.0.2.1"))
    keys = [Asked(to_key(f"n{n}.example"), 1) for n in range(4)]
    for key in keys[:3]:
        cache.put(key, response)
    cache.get(keys[0])
    cache.put(keys[3], response)
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    small = Cache(FakeClock(), CacheLimits(octets=1200))
    for key in keys:
        small.put(key, response)
    assert len(small) == 2
    assert 0 < small.octets <= 1200


def test_dnssec_and_plain_answers_are_kept_apart() -> None:
    cache = Cache(FakeClock())
    cache.put(ASKED, parse_response(reply(f"{NAME}. 60 A 192.0.2.1")))
    assert cache.get(Asked(ASKED.name, 1, dnssec=True)) is None
    assert cache.get(Asked(ASKED.name, 28)) is None


def test_only_replies_to_the_very_question_match() -> None:
    data = reply(f"{NAME}. 60 A 192.0.2.1")
    question = to_key(NAME) + b"\0\1\0\1"
    upper = data[:12] + data[12:29].upper() + data[29:]
    assert matches(data, question)
    assert not matches(upper, question)
    assert matches_but_case(upper, question)
    for other in (to_key("www.example.org") + b"\0\1\0\1", to_key(NAME) + b"\0\x1c\0\1"):
        assert not matches(data, other)
        assert not matches_but_case(data, other)
    assert not matches(data[:2] + b"\1" + data[3:], question)
    assert not matches(data[:4] + b"\0\2" + data[6:], question)
    assert not matches(data[:20], question)


def test_truncated_and_broken_replies_are_noticed() -> None:
    assert parse_response(reply(flags=dns.flags.TC)).truncated
    good = reply(f"{NAME}. 60 A 192.0.2.1")
    for bad in (good[:-12], good[:6] + b"\xff\xff" + good[8:]):
        with pytest.raises(WireError):
            parse_response(bad)


def test_a_chain_and_its_end_make_one_reply() -> None:
    end = parse_response(
        reply(f"{NAME}. 60 CNAME a.example.com.", "a.example.com. 30 A 192.0.2.1", "a.example.com. 30 A 192.0.2.2")
    ).tail
    own = "out.shop.svc.cluster.local"
    tail = join_chain(to_key(own), 1, ((to_key(own), 5, NAME),), 5, end)
    found = [f"{s.name.to_text(True)} {s.ttl} {rr.to_text()}" for s in shown(tail, own).answer for rr in s]
    assert found == [f"{own} 5 {NAME}.", f"{NAME} 60 a.example.com.", "a.example.com 30 192.0.2.1", "a.example.com 30 192.0.2.2"]
    denied = join_chain(to_key(own), 1, ((to_key(own), 5, NAME),), 5, parse_response(reply(rcode=3, soa=SOA)).tail)
    assert (denied.rcode, len(shown(denied, own).answer)) == (3, 1)
