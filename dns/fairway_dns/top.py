"""Who asks what how often, in bounded memory: sampled by the batch, and only while somebody looks. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from fairway_core.clock import Clock
from fairway_dns.names import client_text, to_text
from fairway_dns.reports import Top
from fairway_dns.wire import HEADER, TYPE_NAMES

ROOM: Final = 1024
"""Different questions counted at a time; when there are more, the rarer half is forgotten."""
SHOWN: Final = 200
LONGEST: Final = 60.0
"""Seconds for which one request to watch counts at most."""

Key = tuple[bytes, bytes, int]
"""Packed address, name as it is on the wire in lower case, type."""


class Heavy:
    """Counts weighted keys, of which there may be any number.

    Promise: never more than `room` keys are held; a key's estimate is at least its true weight and at most `floor` more; a key
    with a true weight above `floor` is held (Metwally et al., "Efficient Computation of Frequent and Top-k Elements in Data
    Streams", with evictions in bulk).
    """

    def __init__(self, room: int = ROOM) -> None:
        self._room = room
        self._weights: dict[Key, int] = {}
        self.floor = 0
        self.total = 0

    def add(self, key: Key, weight: int) -> None:
        """Count a key."""
        self.total += weight
        known = self._weights.get(key)
        if known is None:
            if len(self._weights) >= self._room:
                self._halve()
            known = self.floor
        self._weights[key] = known + weight

    def _halve(self) -> None:
        ordered = self.heaviest(self._room)
        kept = self._room // 2
        self.floor = ordered[kept][1]
        self._weights = dict(ordered[:kept])

    def heaviest(self, count: int) -> list[tuple[Key, int]]:
        """The keys with the largest estimates."""
        return sorted(self._weights.items(), key=lambda item: -item[1])[:count]


class TopCounter:
    """Counts questions by who asks while it is `open`; costs one look at that otherwise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heavy = Heavy()
        self._since = self._until = 0.0
        self._turn = 0
        self.open = False

    def watch(self, seconds: float) -> None:
        """Count for so many seconds from now."""
        now = self._clock.monotonic()
        if not self.open:
            self._heavy, self._since = Heavy(), now
        self.open, self._until = True, now + min(seconds, LONGEST)

    def sample(self, datagrams: Sequence[bytes], client: Callable[[int], bytes]) -> None:
        """Count one of the datagrams of a batch for all of them; `client` gives the packed address of the sender of the n-th."""
        self._turn += 1
        slot = self._turn * 31 % len(datagrams)
        self.count(datagrams[slot], client(slot), len(datagrams))

    def count(self, data: bytes, client: bytes, weight: int = 1) -> None:
        """Count one query; what has no readable question is passed over."""
        end = data.find(0, HEADER)
        if 0 < end <= len(data) - 5:
            self._heavy.add((client, data[HEADER : end + 1].lower(), data[end + 1] << 8 | data[end + 2]), weight)

    def take(self) -> Top:
        """What was counted since the last time; begins anew, unless nobody looks any more."""
        now = self._clock.monotonic()
        heavy, seconds = self._heavy, now - self._since
        self._heavy, self._since, self.open = Heavy(), now, now < self._until
        return Top(round(seconds, 3), heavy.total, tuple(row for row in map(_row, heavy.heaviest(SHOWN)) if row is not None))


def _row(item: tuple[Key, int]) -> tuple[str, str, str, int] | None:
    (client, name, qtype), weight = item
    try:
        return client_text(client), to_text(name), TYPE_NAMES.get(qtype, f"TYPE{qtype}"), weight
    except IndexError:
        return None  # A name with a zero octet inside a label: nobody asks for that in earnest.
