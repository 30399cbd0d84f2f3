"""Replies of upstreams, whatever is in them: read or refused, never believed beyond their octets."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle
from unittest.mock import Mock

import dns.exception
import dns.message
import dns.rcode
import dns.rrset
from hypothesis import example, given
from hypothesis import strategies as st

from fairway_dns.denial import covering, expand
from fairway_dns.names import to_key
from fairway_dns.question import Asked, encode_padded, encode_query, in_mixed_case, question_of
from fairway_dns.response import Response, aged, matches, matches_but_case, parse_response, stale
from fairway_dns.stream import Link
from fairway_dns.wire import Query, WireError, parse_query, render

NAME = "www.Example.com"
KEY = to_key(NAME.lower())
labels = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12)
names = st.lists(labels, min_size=1, max_size=8).map(".".join)


def sound() -> bytes:
    made = dns.message.make_response(dns.message.make_query(NAME, "A", use_edns=0))
    made.answer.append(dns.rrset.from_text(NAME + ".", 300, "IN", "CNAME", "a.example.com."))
    made.answer.append(dns.rrset.from_text("a.example.com.", 60, "IN", "A", "192.0.2.1", "192.0.2.2"))
    made.authority.append(dns.rrset.from_text("example.com.", 300, "IN", "SOA", "ns.example.com. a.example.com. 1 2 3 4 60"))
    made.additional.append(dns.rrset.from_text("ns.example.com.", 300, "IN", "A", "192.0.2.3"))
    return made.to_wire()


SOUND = sound()


@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), max_size=6), st.integers(0, len(SOUND)))
@example([], len(SOUND))
def test_mutated_replies_are_read_or_refused(changes: list[tuple[int, int]], size: int) -> None:
    data = bytearray(SOUND)
    for place, octet in changes:
        data[place] = octet
    _use(bytes(data[:size]))


@given(st.binary(max_size=200))
def test_junk_is_read_or_refused(data: bytes) -> None:
    _use(SOUND[:2] + data)
    _use(SOUND[:33] + data)


def _use(data: bytes) -> None:
    """All that is done with a reply raises WireError at most, and is quick."""
    start = time.process_time()
    try:
        response = parse_response(data)
    except WireError:
        return
    query = parse_query(dns.message.make_query(NAME, "A", use_edns=0).to_wire())
    assert isinstance(query, Query)
    for tail in (response.tail, aged(response, 100), stale(response, 30)):
        assert len(tail.body) == len(response.tail.body) <= len(data)
        assert len(render(query, tail)) <= query.udp_limit
    wide = covering(KEY, response)
    assert wide is None or dns.message.from_wire(render(query, wide.tail, tcp=True)).authority
    assert response.ttl >= 0
    assert time.process_time() - start < 0.5


def test_a_long_message_full_of_counts_is_refused_quickly() -> None:
    data = SOUND[:6] + b"\xff\xff" * 3 + SOUND[12:33] + b"\xc0\x0c" * 30_000
    start = time.process_time()
    for _ in range(20):
        _use(data)
    assert time.process_time() - start < 0.5


@given(names, st.binary(min_size=110, max_size=110))
def test_mixed_case_changes_case_only(name: str, noise: bytes) -> None:
    key = to_key(name)
    mixed = in_mixed_case(key, noise[: len(key)])
    assert mixed.lower() == key
    assert in_mixed_case(key, bytes(len(key))) == key
    asked = Asked(key, 1)
    question = question_of(asked, mixed)
    for octets in (encode_query(b"\1\2", question, asked, True), encode_padded(b"\1\2", question, asked)):
        reply = dns.message.make_response(dns.message.from_wire(octets)).to_wire()
        assert matches(reply, question)
        assert matches_but_case(reply, question_of(asked, key))
        assert matches(reply, question_of(asked, key)) == (mixed == key)
    assert len(encode_padded(b"\1\2", question, asked)) % 128 == 0


@given(names, names)
def test_a_denial_covers_every_name_below_with_the_same_soa(zone: str, below: str) -> None:
    name = f"gone.{zone}"
    longer = f"{below}.{name}"
    if len(longer) > 240:
        return
    made = dns.message.make_response(dns.message.make_query(name, "A"))
    made.set_rcode(dns.rcode.NXDOMAIN)
    made.authority.append(dns.rrset.from_text(f"{zone}.", 300, "IN", "SOA", f"ns.{zone}. mail.ns.{zone}. 1 2 3 4 60"))
    wide = covering(to_key(name), parse_response(made.to_wire()))
    assert isinstance(wide, Response)
    query = parse_query(dns.message.make_query(longer, "AAAA").to_wire())
    assert isinstance(query, Query)
    found = dns.message.from_wire(render(query, aged(wide, 7), tcp=True))
    assert [rrset.to_text() for rrset in found.authority] == [f"{zone}. 53 IN SOA ns.{zone}. mail.ns.{zone}. 1 2 3 4 60"]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 8))
def test_messages_on_a_connection_are_told_apart_however_they_come(messages: list[bytes], cuts: list[int], closed: int) -> None:
    stream = b"".join(len(message).to_bytes(2, "big") + message for message in messages)
    seen: list[bytes] = []

    def took(message: bytes) -> None:
        seen.append(message)
        if len(seen) == closed:
            link.abort()

    async def feed() -> None:
        link.connection_made(Mock(asyncio.Transport))
        start = 0
        for size in cycle(cuts):
            link.data_received(stream[start : start + size])
            start += size
            if start >= len(stream):
                break

    link = Link(took, lambda link, error: None)
    asyncio.run(feed())
    assert seen == (messages[:closed] if closed else messages)


@given(st.binary(max_size=60), st.integers(0, 70))
def test_names_in_junk_come_to_an_end(data: bytes, pos: int) -> None:
    try:
        name, after = expand(data, pos)
    except WireError:
        return
    assert len(name) <= 255
    assert 0 < after <= len(data)
