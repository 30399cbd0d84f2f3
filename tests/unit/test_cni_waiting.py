"""Freed addresses of a range that is never walked through."""

from __future__ import annotations

from fairway_cni.ranges import WAITING, Range, RangeSpec


def test_what_waits_is_bounded_and_still_taken_in_order() -> None:
    part = Range(RangeSpec.make("fd00::/64"))
    given = []
    for _ in range(WAITING + 50):
        offset = part.next_free()
        assert offset is not None
        part.take(offset, "owner")
        part.free(offset)
        given.append(offset)
    assert len(set(given)) == WAITING
    assert given[WAITING:] == given[:50]
