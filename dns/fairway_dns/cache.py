"""Cache of upstream answers, positive and negative (RFC 2308), each bounded in entries and octets, least recently used out first.

The service zone is never in here: it is a table, not a cache. Denials and failures have a shelf of their own, so that no flood of
names that do not exist drives out answers that somebody needs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from fairway_core.clock import Clock
from fairway_dns.denial import covering
from fairway_dns.names import suffixes
from fairway_dns.question import Asked
from fairway_dns.response import EDE_CACHED_ERROR, Response, aged, stale
from fairway_dns.wire import NOERROR, NXDOMAIN, Tail

OVERHEAD: Final = 500
"""Octets an entry takes besides its body, roughly."""
ROOT: Final = b"\0"


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Sizes, and bounds of lifetimes in seconds. `stale_for`: how long an expired positive answer may stand in for a dead
    upstream, `stale_ttl` the TTL it then gets (RFC 8767: 30 s), and `recheck` when the upstream is tried again (at most 30 s).
    `failure`: RFC 2308, 7 and RFC 9520 (1 s to 5 minutes). Answers that live `prefetch_from` seconds or more are due for renewal
    in the last tenth of their life (at least a second) if they were used `popular` times.
    """

    entries: int = 20_000
    octets: int = 32 << 20
    negative_entries: int = 10_000
    negative_octets: int = 8 << 20
    positive: int = 3600
    negative: int = 1800
    failure: int = 5
    stale_for: int = 86_400
    stale_ttl: int = 30
    recheck: int = 10
    popular: int = 3
    prefetch_from: int = 5


class _Entry:
    __slots__ = ("expires", "hits", "limit", "response", "size", "stored", "wide")

    def __init__(self, response: Response, stored: float, expires: float, size: int, limit: float) -> None:
        self.response, self.stored, self.expires, self.size, self.limit = response, stored, expires, size, limit
        self.hits = 0
        self.wide: Response | None = None
        """The denial as it covers names below, once one was asked for."""


class Kept(NamedTuple):
    """A fresh answer as of now, the monotonic time at which its TTLs must be counted down again, and where it comes from: the
    response as it was `stored`, which `expires`.
    """

    tail: Tail
    until: float
    response: Response
    stored: float
    expires: float


class _Shelf(OrderedDict[Asked, _Entry]):
    """Entries, least recently used first."""

    def __init__(self, entries: int, octets: int) -> None:
        super().__init__()
        self.octets = 0
        self._bounds = entries, octets

    def place(self, asked: Asked, entry: _Entry) -> list[Asked]:
        """Add an entry; what had to go for it."""
        self.drop(asked)
        self[asked] = entry
        self.octets += entry.size
        gone = []
        while len(self) > self._bounds[0] or self.octets > self._bounds[1]:
            oldest, old = self.popitem(last=False)
            self.octets -= old.size
            gone.append(oldest)
        return gone

    def drop(self, asked: Asked) -> bool:
        entry = self.pop(asked, None)
        if entry is not None:
            self.octets -= entry.size
        return entry is not None


class Cache:
    """Answers by what was asked. Promise: never hands out a TTL longer than what is left of it; never grows beyond its limits."""

    def __init__(self, clock: Clock, limits: CacheLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits = limits or CacheLimits()
        self._positive = _Shelf(limits.entries, limits.octets)
        self._negative = _Shelf(limits.negative_entries, limits.negative_octets)
        self._cuts: dict[tuple[bytes, bool, bool], Asked] = {}
        self._due: Callable[[Asked], None] | None = None

    def __len__(self) -> int:
        return len(self._positive) + len(self._negative)

    @property
    def octets(self) -> int:
        """Estimated memory in use."""
        return self._positive.octets + self._negative.octets

    def when_due(self, renew: Callable[[Asked], None]) -> None:
        """Have `renew` called, once in an entry's life, when a popular one is about to expire."""
        self._due = renew

    def get(self, asked: Asked, apex: bytes = ROOT) -> Kept | None:
        """A fresh answer with its TTLs counted down, or None. `apex`: denials of names above this key are by other servers and
        say nothing.
        """
        found = self._positive.get(asked)
        denied = self._negative.get(asked)
        if found is None and denied is None and not self._cuts:
            return None
        now = self._clock.monotonic()
        for shelf, entry in ((self._positive, found), (self._negative, denied)):
            if entry is not None and now < entry.expires:
                shelf.move_to_end(asked)
                self._used(asked, entry, now)
                return _kept(entry, entry.response, now)
        return self._covered(asked, apex, now)

    def touch(self, asked: Asked) -> None:
        """An answer given out earlier is still in use."""
        for shelf in (self._positive, self._negative):
            entry = shelf.get(asked)
            if entry is not None:
                shelf.move_to_end(asked)
                self._used(asked, entry, self._clock.monotonic())
                return

    def put(self, asked: Asked, response: Response) -> None:
        """Keep an answer as long as it says and the limits allow; not at all if that is no time."""
        old = self._positive.get(asked) or self._negative.get(asked)
        if old is not None and old.response is response:
            return  # Several had asked together.
        rcode = response.tail.rcode
        found = rcode == NOERROR and response.tail.answers > 0
        bound = self._limits.positive if found else self._limits.negative
        if rcode not in (NOERROR, NXDOMAIN):
            bound = self._limits.failure
        elif old is not None or self._cuts:
            self._replace(asked, exists=rcode == NOERROR)
        lifetime = min(response.ttl, bound)
        if lifetime <= 0:
            return
        now = self._clock.monotonic()
        size = len(response.tail.body) + len(asked.name) + OVERHEAD
        entry = _Entry(response, now, now + lifetime, size, now + lifetime + self._limits.stale_for)
        gone = (self._positive if found else self._negative).place(asked, entry)
        if rcode == NXDOMAIN and not response.tail.answers:
            self._cuts[asked.name, asked.dnssec, asked.checking_disabled] = asked
        if not found:
            self._uncut(gone)

    def get_stale(self, asked: Asked) -> Tail | None:
        """An expired answer for when nothing better can be had; only one with records: a denial must not outlive its time."""
        entry = self._positive.get(asked)
        if entry is None or self._clock.monotonic() >= entry.limit:
            return None
        return stale(entry.response, self._limits.stale_ttl)

    def hold_stale(self, asked: Asked) -> None:
        """The upstreams just failed: let the expired answer be fresh again until they are worth another try, so that not every
        client waits for them (RFC 8767, 5: failure recheck timer).
        """
        entry = self._positive.get(asked)
        old = self.get_stale(asked)
        if entry is None or old is None:
            return
        now = self._clock.monotonic()
        held = _Entry(entry.response._replace(tail=old), now, now + self._limits.recheck, entry.size, entry.limit)
        self._positive.place(asked, held)

    def _replace(self, asked: Asked, exists: bool) -> None:
        """A new answer makes older ones wrong: both kinds of its own, and denials above a name that exists, whatever the server
        meant by them (some deny empty non-terminals).
        """
        self._positive.drop(asked)
        if self._negative.drop(asked):
            self._uncut([asked])
        if exists and self._cuts:
            for _pos, suffix in suffixes(asked.name):
                self._cuts.pop((suffix, asked.dnssec, asked.checking_disabled), None)

    def _uncut(self, gone: list[Asked]) -> None:
        for asked in gone:
            key = asked.name, asked.dnssec, asked.checking_disabled
            if self._cuts.get(key) == asked:
                del self._cuts[key]

    def _covered(self, asked: Asked, apex: bytes, now: float) -> Kept | None:
        """The denial of a name above (RFC 8020). Not that of the name itself for another type: too many servers deny a name whose
        type they do not know.
        """
        for pos, suffix in suffixes(asked.name):
            if len(suffix) < len(apex) or suffix == ROOT:
                break
            cut = self._cuts.get((suffix, asked.dnssec, asked.checking_disabled)) if pos else None
            if cut is not None:
                found = self._cover(cut, now)
                if found is not None:
                    return found
        return None

    def _cover(self, cut: Asked, now: float) -> Kept | None:
        entry = self._negative.get(cut)
        if entry is None or now >= entry.expires:
            self._uncut([cut])
            return None
        entry.wide = entry.wide or covering(cut.name, entry.response)
        if entry.wide is None:
            self._uncut([cut])
            return None
        self._negative.move_to_end(cut)
        return _kept(entry, entry.wide, now)

    def _used(self, asked: Asked, entry: _Entry, now: float) -> None:
        """Count a use, and have a popular entry renewed before it expires."""
        entry.hits += 1
        if self._due is None or entry.hits < self._limits.popular:
            return
        life = entry.expires - entry.stored
        if entry.expires - now <= max(1.0, life / 10) and life >= self._limits.prefetch_from:
            entry.hits = -(1 << 60)
            self._due(asked)


def _kept(entry: _Entry, response: Response, now: float) -> Kept:
    age = int(now - entry.stored)
    until = min(entry.expires, entry.stored + age + 1)
    if response.tail.rcode not in (NOERROR, NXDOMAIN):
        tail = response.tail._replace(ede=EDE_CACHED_ERROR, text="failed a moment ago")
        return Kept(tail, until, response, entry.stored, entry.expires)
    return Kept(aged(response, age), until, response, entry.stored, entry.expires)
