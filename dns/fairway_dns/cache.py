"""Cache of upstream answers, positive and negative (RFC 2308), bounded in entries and octets, least recently used out first.

The service zone is never in here: it is a table, not a cache.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from fairway_core.clock import Clock
from fairway_dns.response import Response, aged, stale
from fairway_dns.wire import NOERROR, NXDOMAIN, SERVFAIL, Tail

OVERHEAD = 400
"""Octets an entry takes besides its body, roughly."""


class Asked(NamedTuple):
    """What an answer depends on: name (a key), type, whether DNSSEC records were wanted, whether checking was disabled (RFC
    4035, 3.2).
    """

    name: bytes
    qtype: int
    dnssec: bool = False
    checking_disabled: bool = False


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """Sizes, and bounds of lifetimes in seconds. `stale_for`: how long an expired positive answer may stand in for a dead
    upstream, `stale_ttl` the TTL it then gets (RFC 8767: 30 s), and `recheck` when the upstream is tried again (at most 30 s).
    """

    entries: int = 20_000
    octets: int = 32 << 20
    positive: int = 3600
    negative: int = 1800
    failure: int = 1
    stale_for: int = 86_400
    stale_ttl: int = 30
    recheck: int = 10


class _Entry(NamedTuple):
    response: Response
    stored: float
    expires: float
    size: int
    limit: float


class Kept(NamedTuple):
    """A fresh answer as of now, the monotonic time at which its TTLs must be counted down again, and where it comes from: the
    response as it was `stored`, which `expires`.
    """

    tail: Tail
    until: float
    response: Response
    stored: float
    expires: float


class Cache:
    """Answers by what was asked. Promise: never hands out a TTL longer than what is left of it; never grows beyond its limits."""

    def __init__(self, clock: Clock, limits: CacheLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or CacheLimits()
        self._entries: OrderedDict[Asked, _Entry] = OrderedDict()
        self._octets = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def octets(self) -> int:
        """Estimated memory in use."""
        return self._octets

    def get(self, asked: Asked) -> Kept | None:
        """A fresh answer with its TTLs counted down, or None."""
        entry = self._entries.get(asked)
        now = self._clock.monotonic()
        if entry is None or now >= entry.expires:
            return None
        self._entries.move_to_end(asked)
        age = int(now - entry.stored)
        until = min(entry.expires, entry.stored + age + 1)
        return Kept(aged(entry.response, age), until, entry.response, entry.stored, entry.expires)

    def touch(self, asked: Asked) -> None:
        """An answer given out earlier is still in use."""
        if asked in self._entries:
            self._entries.move_to_end(asked)

    def put(self, asked: Asked, response: Response) -> None:
        """Keep an answer as long as it says and the limits allow; not at all if that is no time."""
        lifetime = self._lifetime(response)
        if lifetime <= 0:
            return
        self._drop(asked)
        now = self._clock.monotonic()
        size = len(response.tail.body) + len(asked.name) + OVERHEAD
        self._entries[asked] = _Entry(response, now, now + lifetime, size, now + lifetime + self._limits.stale_for)
        self._octets += size
        while self._octets > self._limits.octets or len(self._entries) > self._limits.entries:
            self._drop(next(iter(self._entries)))

    def get_stale(self, asked: Asked) -> Tail | None:
        """An expired answer for when nothing better can be had; only one with records: a denial must not outlive its time."""
        entry = self._entries.get(asked)
        now = self._clock.monotonic()
        if entry is None or now >= entry.limit:
            return None
        usable = entry.response.tail.rcode == NOERROR and entry.response.tail.answers
        return stale(entry.response, self._limits.stale_ttl) if usable else None

    def hold_stale(self, asked: Asked) -> None:
        """The upstreams just failed: let the expired answer be fresh again until they are worth another try, so that not every
        client waits for them (RFC 8767, 5: failure recheck timer).
        """
        entry = self._entries.get(asked)
        old = self.get_stale(asked)
        if entry is None or old is None:
            return
        now = self._clock.monotonic()
        held = entry.response._replace(tail=old)
        self._entries[asked] = entry._replace(response=held, stored=now, expires=now + self._limits.recheck)

    def _lifetime(self, response: Response) -> int:
        tail = response.tail
        if tail.rcode == SERVFAIL:
            return self._limits.failure
        denial = tail.rcode == NXDOMAIN or not tail.answers
        return min(response.ttl, self._limits.negative if denial else self._limits.positive)

    def _drop(self, asked: Asked) -> None:
        entry = self._entries.pop(asked, None)
        if entry is not None:
            self._octets -= entry.size
