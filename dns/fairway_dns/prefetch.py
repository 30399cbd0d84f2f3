"""Popular answers are renewed before they expire, so that nobody waits for what everybody asks."""

from __future__ import annotations

from typing import Final

from fairway_dns.cache import Cache
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder, Routes
from fairway_dns.question import Asked
from fairway_dns.response import Response
from fairway_dns.wire import NOERROR, NXDOMAIN

AT_ONCE: Final = 32
"""Renewals under way; more are left out, and the answers then expire as without."""


class Prefetcher:
    """Promise: at most AT_ONCE questions under way; a renewal that fails changes nothing."""

    def __init__(self, cache: Cache, forwarder: Forwarder | Routes, counters: Counters) -> None:
        self._cache, self._forwarder, self._counters = cache, forwarder, counters
        self._running = 0
        cache.when_due(self._renew)

    def _renew(self, asked: Asked) -> None:
        if self._running >= AT_ONCE:
            return
        self._running += 1
        self._counters.add("prefetched")
        self._forwarder.ask(asked, lambda response: self._arrived(asked, response))

    def _arrived(self, asked: Asked, response: Response) -> None:
        self._running -= 1
        if response.tail.rcode in (NOERROR, NXDOMAIN):
            self._cache.put(asked, response)
