"""Heavy hitters in bounded memory, beside counting everything."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fairway_core.clock import FakeClock
from fairway_dns.names import to_key
from fairway_dns.question import client_query
from fairway_dns.top import Heavy, TopCounter

keys = st.integers(0, 30).map(lambda number: (bytes([10, 0, 0, number % 3]), to_key(f"n{number}"), 1))


@given(st.lists(st.tuples(keys, st.integers(1, 64)), max_size=300), st.integers(2, 12))
def test_estimates_are_bounded_on_both_sides(stream: list[tuple[tuple[bytes, bytes, int], int]], room: int) -> None:
    heavy, exact = Heavy(room), Counter[tuple[bytes, bytes, int]]()
    for key, weight in stream:
        heavy.add(key, weight)
        exact[key] += weight
    held = dict(heavy.heaviest(room))
    assert len(held) <= room
    assert heavy.total == exact.total()
    for key, weight in exact.items():
        if key in held:
            assert weight <= held[key] <= weight + heavy.floor
        else:
            assert weight <= heavy.floor
    if len(exact) <= room:
        assert held == dict(exact)


def wire(name: str, qtype: int = 1) -> bytes:
    return client_query(b"id", to_key(name), qtype)


def test_nothing_is_counted_while_nobody_looks() -> None:
    clock = FakeClock()
    top = TopCounter(clock)
    assert not top.open
    top.watch(5)
    top.count(wire("a.example"), bytes([10, 0, 0, 1]))
    top.count(wire("A.example".lower(), 28), bytes(15) + b"\1", 3)
    top.count(b"", b"")
    top.count(b"\0" * 12, b"")
    clock.advance(2)
    found = top.take()
    assert (found.seconds, found.total) == (2.0, 4)
    assert found.rows == (("::1", "a.example", "AAAA", 3), ("10.0.0.1", "a.example", "A", 1))
    clock.advance(1)
    assert top.take().rows == ()
    assert top.open
    clock.advance(3)
    top.take()
    assert not top.open


def test_one_of_a_batch_stands_for_all_and_each_place_has_its_turn() -> None:
    top = TopCounter(FakeClock())
    top.watch(60)
    batch = [wire(f"n{number}.example") for number in range(4)]
    for _ in range(400):
        top.sample(batch, lambda slot: bytes([10, 0, 0, slot]))
    found = top.take()
    assert found.total == 1600
    assert sorted(found.rows) == [(f"10.0.0.{n}", f"n{n}.example", "A", 400) for n in range(4)]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=64))
def test_any_datagram_is_survived(batch: list[bytes]) -> None:
    top = TopCounter(FakeClock())
    top.watch(60)
    for _ in range(3):
        top.sample(batch, lambda _slot: b"\x0a\0\0\1")
    top.take()
