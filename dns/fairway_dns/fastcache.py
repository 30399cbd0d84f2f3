"""Whole replies by the octets of the query: what the batch loop answers from without looking into a message. Pure.

The key is everything after the id, as received, with the question's name in lower case: flags, counts, name, type, class and a
bare OPT record. So whatever could change the reply is in the key. The value is everything after the id of the reply to the
lower-case question; for a question in mixed case (0x20) its octets replace those of the reply, which are as many.

Three kinds of entries: those that follow from one name of the table, dropped when that name changes; those that follow from more
of the table (denials, chains, SRV with addresses), dropped at any change; and answers of upstreams, which hold until a moment.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from math import inf

from fairway_dns.wire import HEADER, IN, Query

FINE = 64
"""TTLs of prepared replies are exact to one part in so many, and to a second; they are never too high."""
BARE_OPT = 11
"""Octets of an OPT record without options."""

_TTL = struct.Struct("!I")


@dataclass(frozen=True, slots=True)
class Aging:
    """How the TTLs of a reply count down. `stored` and `expires` are monotonic seconds, `ttls` the offsets of TTL fields in
    the whole reply and what they were when it was stored; `touch` tells the owner that the reply is in use.
    """

    stored: float
    expires: float
    ttls: tuple[tuple[int, int], ...]
    touch: Callable[[], None]


Entry = tuple[bytes, int, float, Callable[[], bytes] | None, list[int], Aging | None]
"""The reply after its id; its whole length in octets; the monotonic time it holds until; gives the next rotation, or None if
there is but one; the count of its uses; how to renew it when its time is over, or None.
"""


@dataclass(frozen=True, slots=True)
class FastLimits:
    """Bounds of one of two generations: entries and octets of replies; `volatile` entries that any change of the table drops."""

    entries: int = 32_768
    octets: int = 8 << 20
    volatile: int = 16_384


@dataclass(slots=True)
class _Generation:
    entries: dict[bytes, Entry] = field(default_factory=dict)
    by_name: dict[bytes, list[bytes]] = field(default_factory=dict)
    octets: int = 0


class FastCache:
    """Promise: an entry is handed out only while the slow path would give the same octets, TTLs above FINE seconds apart; memory
    is bounded: when a generation is full the one before it goes, and what is still asked for moves on.
    """

    def __init__(self, limits: FastLimits | None = None) -> None:
        self.limits = limits or FastLimits()
        self._young, self._old = _Generation(), _Generation()
        self._volatile: dict[bytes, Entry] = {}
        self.hot = self._young.entries
        """The entries most in use, for the batch loop's first look; to be fetched anew for each batch. Who uses an entry adds one
        to its count and heeds its time.
        """

    def __len__(self) -> int:
        return len(self._young.entries) + len(self._old.entries) + len(self._volatile)

    def find(self, data: bytes, now: float) -> bytes | None:
        """The reply after its id for a query that `hot` did not have, or None. Counts the use."""
        key = data[2:]
        entry = self._volatile.get(key) or self._young.entries.get(key) or self._aged(key)
        if entry is None:
            if key.islower():
                return None  # Nothing to fold, as most often.
            folded = _folded(data)
            if folded == key:
                return None
            entry = self._volatile.get(folded) or self._young.entries.get(folded) or self._aged(folded)
            key = folded
        if entry is not None and entry[2] <= now:
            entry = self._renew(key, entry, now)
        if entry is None:
            return None
        entry[4][0] += 1
        body = entry[0] if entry[3] is None else entry[3]()
        # Everything up to here has the length of the query's question, so the offsets are the same.
        end = data.index(0, HEADER) + 5
        return b"".join((body[: HEADER - 2], data[HEADER:end], body[end - 2 :]))

    def _renew(self, key: bytes, entry: Entry, now: float) -> Entry | None:
        """The entry with its TTLs counted down."""
        reply, length, _until, _rotate, count, aging = entry
        if aging is None or aging.expires <= now:
            return None
        # What lives long is written anew less often: its TTLs are shown as they will be at the end of a step.
        step = max(1, int(aging.expires - now) // FINE)
        age = int(now - aging.stored) + step - 1
        body = bytearray(reply)
        for offset, ttl in aging.ttls:
            _TTL.pack_into(body, offset - 2, max(0, ttl - age))
        aging.touch()
        made = (bytes(body), length, min(aging.expires, aging.stored + age + 1), None, count, aging)
        self._young.entries[key] = made
        return made

    def _aged(self, key: bytes) -> Entry | None:
        """An entry of the older generation, which moves on."""
        found = self._old.entries.pop(key, None)
        if found is not None:
            self.keep(key, found, key[HEADER - 2 : key.index(0, HEADER - 2) + 1])
        return found

    def learn(self, data: bytes, query: Query, replies: Sequence[bytes], count: list[int]) -> None:
        """Remember the rotations of the reply to `query` (octets `data`), which follow from its name alone."""
        if cacheable(data, query):
            self.keep(_folded(data), _entry(query, replies, count), query.name)

    def keep(self, key: bytes, entry: Entry, name: bytes) -> None:
        """Remember an entry that falls with its name. `key`: the query after its id, with the name in lower case."""
        young = self._young
        if key not in young.entries:
            young.by_name.setdefault(name, []).append(key)
            young.octets += entry[1] + len(key)
        young.entries[key] = entry
        # An older one must not come back when this one is gone.
        self._old.entries.pop(key, None)
        if len(young.entries) >= self.limits.entries or young.octets >= self.limits.octets:
            self._old, self._young = young, _Generation()
            self.hot = self._young.entries

    def learn_until(self, data: bytes, query: Query, reply: bytes, count: list[int], until: float, aging: Aging | None) -> None:
        """Remember a reply that holds until a monotonic time, and then ages if it can."""
        if cacheable(data, query):
            self.keep(_folded(data), _entry(query, (reply,), count, until, aging), query.name)

    def learn_volatile(self, data: bytes, query: Query, reply: bytes, count: list[int], until: float = inf) -> None:
        """Remember a reply that any change of the table may alter, and that holds until a monotonic time."""
        if cacheable(data, query):
            if len(self._volatile) >= self.limits.volatile:
                self._volatile = {}
            self._volatile[_folded(data)] = _entry(query, (reply,), count, until)

    def forget(self, names: Iterable[bytes]) -> None:
        """The table changed at these names (keys)."""
        self._volatile = {}
        for name in names:
            for generation in (self._young, self._old):
                for key in generation.by_name.pop(name, ()):
                    generation.entries.pop(key, None)

    def clear(self) -> None:
        """The table is another one."""
        self._young, self._old = _Generation(), _Generation()
        self._volatile = {}
        self.hot = self._young.entries


def cacheable(data: bytes, query: Query) -> bool:
    """Whether a query is of the plain shape that entries are kept for: sound, class IN, at most a bare OPT after the question,
    and no zero octet inside a label (the end of the name must be where the first one is).
    """
    end = HEADER + len(query.question)
    size = end + BARE_OPT if query.edns else end
    return not query.fault and query.qclass == IN and len(data) == size and query.name.index(0) == len(query.name) - 1


def _entry(query: Query, replies: Sequence[bytes], count: list[int], until: float = inf, aging: Aging | None = None) -> Entry:
    lower = query.name + query.question[-4:]
    bodies = [reply[2:HEADER] + lower + reply[HEADER + len(lower) :] for reply in replies]
    return bodies[0], len(replies[0]), until, cycle(bodies).__next__ if len(bodies) > 1 else None, count, aging


def _folded(data: bytes) -> bytes:
    """The key of a query: only the name is lowered, since type 65 is an upper-case letter too. A name of an odd shape may be
    lowered in part; two queries still share a key only if they differ in the case of their name alone.
    """
    end = data.find(0, HEADER)
    return data[2:] if end < 0 else data[2:HEADER] + data[HEADER:end].lower() + data[end:]
