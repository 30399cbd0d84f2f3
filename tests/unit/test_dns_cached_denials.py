"""What the cache does with denials and failures, and with answers that many ask for."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from fairway_core.clock import FakeClock
from fairway_dns.cache import Cache, CacheLimits, Kept
from fairway_dns.names import to_key
from fairway_dns.question import Asked
from fairway_dns.response import Response, parse_response
from fairway_dns.wire import SERVFAIL, Query, Tail, parse_query, render

SOA = "ns.example.com. admin.example.com. 1 2 3 4 60"


def asked(name: str, qtype: int = 1, **more: bool) -> Asked:
    return Asked(to_key(name), qtype, **more)


def answer(name: str, *records: str, rcode: int = 0, zone: str = "example.com.") -> Response:
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    made.set_rcode(dns.rcode.Rcode(rcode))
    for text in records:
        owner, ttl, rtype, data = text.split(" ", 3)
        made.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", rtype, data))
    if zone and not (records and rcode == 0):
        made.authority.append(dns.rrset.from_text(zone, 300, "IN", "SOA", SOA))
    return parse_response(made.to_wire())


def address(name: str, ttl: int = 60) -> Response:
    return answer(name, f"{name}. {ttl} A 192.0.2.1")


def shown(kept: Kept | None, name: str) -> dns.message.Message:
    assert kept is not None
    query = parse_query(dns.message.make_query(name, "A").to_wire())
    assert isinstance(query, Query)
    return dns.message.from_wire(render(query, kept.tail, tcp=True))


def test_a_denied_name_has_nothing_below_it() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    cache.put(asked("gone.example.com"), answer("gone.example.com", rcode=3))
    clock.advance(10)
    for below in ("a.gone.example.com", "a.very.much.longer.name.gone.example.com"):
        found = shown(cache.get(asked(below, 28)), below)
        assert found.rcode() == dns.rcode.NXDOMAIN
        soa = found.authority[0]
        assert (soa.name.to_text(), soa.ttl, soa[0].to_text()) == ("example.com.", 50, SOA)
    for other in ("example.com", "gone2.example.com", "notgone.example.com", "gone.example.org"):
        assert cache.get(asked(other)) is None
    clock.advance(50)
    assert cache.get(asked("a.gone.example.com")) is None


def test_another_type_of_a_denied_name_is_asked_for() -> None:
    cache = Cache(FakeClock())
    cache.put(asked("www.example.com", 28), answer("www.example.com", rcode=3))
    assert cache.get(asked("www.example.com", 1)) is None


@pytest.mark.parametrize(
    "response",
    [
        answer("ent.example.com"),
        answer("ent.example.com", rcode=3, zone=""),
        answer("ent.example.com", "ent.example.com. 60 CNAME gone.example.com.", rcode=3),
        answer("ent.example.com", rcode=3, zone="other.com."),
        answer("ent.example.com", rcode=3, zone="sub.ent.example.com."),
        answer("ent.example.com", rcode=2),
    ],
    ids=["empty non-terminal", "no SOA", "end of a chain", "SOA of another zone", "SOA from below", "failure"],
)
def test_what_denies_nothing_below(response: Response) -> None:
    cache = Cache(FakeClock())
    cache.put(asked("ent.example.com"), response)
    assert cache.get(asked("a.ent.example.com")) is None
    assert cache.get(asked("a.ent.example.com")) is None


def test_a_name_that_exists_disproves_denials_above_it() -> None:
    cache = Cache(FakeClock())
    known = asked("known.ent.example.com")
    cache.put(known, address("known.ent.example.com"))
    cache.put(asked("ent.example.com"), answer("ent.example.com", rcode=3))
    assert shown(cache.get(known), "known.ent.example.com").answer
    assert cache.get(asked("new.ent.example.com")) is not None
    cache.put(asked("b.ent.example.com"), address("b.ent.example.com"))
    assert cache.get(asked("new.ent.example.com")) is None


def test_denials_by_other_servers_say_nothing_about_a_stub_zone() -> None:
    cache = Cache(FakeClock())
    cache.put(asked("corp.example.com"), answer("corp.example.com", rcode=3))
    name = asked("a.b.corp.example.com")
    assert cache.get(name, to_key("b.corp.example.com")) is None
    assert cache.get(name, to_key("corp.example.com")) is not None
    assert cache.get(name) is not None


def test_denials_with_and_without_dnssec_are_kept_apart() -> None:
    cache = Cache(FakeClock())
    cache.put(asked("gone.example.com"), answer("gone.example.com", rcode=3))
    assert cache.get(asked("a.gone.example.com", dnssec=True)) is None
    assert cache.get(asked("a.gone.example.com", checking_disabled=True)) is None


def test_floods_of_denials_drive_out_no_answers_and_leave_nothing_behind() -> None:
    cache = Cache(FakeClock(), CacheLimits(negative_entries=100))
    cache.put(asked("www.example.com"), address("www.example.com"))
    for n in range(1000):
        cache.put(asked(f"n{n}.example.com"), answer(f"n{n}.example.com", rcode=3))
    assert len(cache) == 101
    assert cache.get(asked("www.example.com")) is not None
    assert cache.get(asked("a.n0.example.com")) is None
    assert cache.get(asked("a.n999.example.com")) is not None
    assert len(cache._cuts) == 100


def test_failures_are_remembered_for_five_seconds_and_hide_no_older_answer() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    name = asked("www.example.com")
    cache.put(name, address("www.example.com"))
    clock.advance(61)
    cache.put(name, Response(Tail(SERVFAIL, ede=22), 300))
    found = cache.get(name)
    assert found is not None
    assert (found.tail.rcode, found.tail.ede) == (SERVFAIL, 13)
    stale = cache.get_stale(name)
    assert stale is not None
    assert (stale.ede, stale.answers) == (3, 1)
    clock.advance(5)
    assert cache.get(name) is None
    cache.put(name, address("www.example.com"))
    assert cache.get(name) is not None
    cache.put(name, answer("www.example.com", rcode=3))
    assert cache.get_stale(name) is None


def test_popular_answers_are_renewed_once_shortly_before_they_expire() -> None:
    clock = FakeClock()
    cache = Cache(clock)
    due: list[Asked] = []
    cache.when_due(due.append)
    popular, rare, short = (asked(f"{name}.example.com") for name in ("popular", "rare", "short"))
    for one, ttl in ((popular, 100), (rare, 100), (short, 4)):
        cache.put(one, address("www.example.com", ttl))
    for _ in range(3):
        cache.get(popular)
        cache.get(short)
    clock.advance(3.5)
    cache.get(short)
    clock.advance(86)
    cache.touch(popular)
    assert due == []
    clock.advance(1)
    cache.get(rare)
    cache.touch(popular)
    cache.get(popular)
    assert due == [popular]
    cache.put(popular, address("www.example.com", 100))
    clock.advance(95)
    cache.get(popular)
    assert due == [popular]
