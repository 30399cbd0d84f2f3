"""Prepared replies of everybody: kept once for all who see the same, apart for those who do not. Pure."""

from __future__ import annotations

from weakref import WeakSet, WeakValueDictionary

from fairway_dns.fastcache import FastCache, FastLimits
from fairway_dns.table import Moved, Table
from fairway_dns.views import Asker, Sight, Views

FLOOR = FastLimits(256, 64 << 10, 128)
"""What each part may hold at least, however many there are."""


class Prepared:
    """Promise: nobody is given a reply that was made for somebody who sees something else, or whose names are completed another
    way; all parts together keep to the limits, as long as there are no more than 128 of them. A part that nobody uses goes.
    """

    def __init__(self, limits: FastLimits | None = None) -> None:
        self._limits = limits or FastLimits()
        self._parts: WeakSet[FastCache] = WeakSet()
        self._by_sight: WeakValueDictionary[Sight, FastCache] = WeakValueDictionary()
        self.views = Views()
        self._completing = False
        self.apart = False
        """Whether askers differ in what they see or may be told. If not, the shared part of `anybody` is that of all."""

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def shared(self, asker: Asker) -> FastCache:
        """The replies for all that see what this one sees."""
        if asker.shared is None:
            found = self._by_sight.get(asker.sight)
            if found is None:
                found = self._by_sight[asker.sight] = self._made()
            asker.shared = found
        return asker.shared

    def own(self, asker: Asker) -> FastCache:
        """The replies that depend on the search path of this one too."""
        if not self.views.completing:
            return self.shared(asker)
        if asker.personal is None:
            asker.personal = self._made()
        return asker.personal

    def find(self, asker: Asker, data: bytes, now: float) -> bytes | None:
        """The reply after its id for a query, wherever it is kept. Counts the use."""
        found = self.shared(asker).find(data, now)
        return found if found is not None or asker.personal is None else asker.personal.find(data, now)

    def follow(self, table: Table, moved: Moved) -> None:
        """The table changed: drop what may be another reply now."""
        begins = table.views.completing and not self._completing
        self.views, self._completing = table.views, table.views.completing
        self.apart = table.zone.scoped or bool(table.views.watching)
        for part in self._parts:
            # While nobody's names were completed, all shared the denials that are completed for somebody now.
            if moved.names is None or begins:
                part.clear()
            else:
                part.forget(moved.names)

    def _made(self) -> FastCache:
        made = FastCache()
        self._parts.add(made)
        share, least = self._limits, FLOOR
        count = len(self._parts)
        if count > 1:
            share = FastLimits(
                max(share.entries // count, min(share.entries, least.entries)),
                max(share.octets // count, min(share.octets, least.octets)),
                max(share.volatile // count, min(share.volatile, least.volatile)),
            )
        for part in self._parts:
            part.limits = share
        return made
