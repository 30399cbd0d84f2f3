"""The zone as one asker sees it. Pure."""

from __future__ import annotations

from fairway_dns.views import Sight, Views
from fairway_dns.wire import Tail
from fairway_dns.zone import Node, Zone

MANY = 64
"""Scopes below a name from which on it pays to remember whether any can be seen; few names have that many."""


class SeenZone:
    """The zone less what is hidden from `sight`.

    Promise: a name that has nothing visible at or below it does not exist, by whatever way it is come to; the rest is as in the
    zone. Good for one state of zone and views: what was found out about a name is kept.
    """

    def __init__(self, zone: Zone, views: Views, sight: Sight) -> None:
        self._zone = zone
        self._views = views
        self._sight = sight
        self._found: dict[bytes, bool] = {}

    @property
    def revision(self) -> int | None:
        return self._zone.revision

    def find(self, key: bytes) -> Node | None:
        """See `Names.find`. Looks through all scopes below a name at worst, once."""
        node = self._zone.find(key)
        if node is None or (node.scopes is None and node.sets):
            return node
        scopes = node.scopes or {}
        hidden = {data for data, scope in scopes.items() if not self._sees(scope)}
        if not hidden and node.sets:
            return node
        kept = {rtype: [item for item in data if item not in hidden] for rtype, data in node.sets.items()}
        sets = {rtype: data for rtype, data in kept.items() if data}
        return Node(sets, node.below) if sets or self._any_below(key, node) else None

    def keep_tails(self, node: Node, rtype: int, tails: tuple[Tail, ...], foreign: bool) -> None:
        self._zone.keep_tails(node, rtype, tails, foreign)

    def _any_below(self, key: bytes, node: Node) -> bool:
        under = node.under or {}
        if len(under) < MANY:
            return any(map(self._sees, under))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = any(map(self._sees, under))
        return found

    def _sees(self, scope: str) -> bool:
        return not scope or self._views.sees(self._sight, scope)
