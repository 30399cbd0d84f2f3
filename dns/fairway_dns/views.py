"""Who asks, and what is hidden from them. Pure.

Each record belongs to a scope: "namespace/service", or "namespace/" for names of pods; records of the zone itself to none. A
scope may have a tenant, for whose pods alone it exists, and a group: the scopes that policy treats alike. A view is what some
addresses have in common: their tenant, the groups hidden from them, and scopes of their own, which policy never hides. All of
this is facts, values like records: a change is two sets of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_dns.fastcache import FastCache

ADDRESS, VIEW, HIDDEN, OWN, SCOPE = "address", "view", "hidden", "own", "scope"
_VALUES = {ADDRESS: 1, VIEW: 2, HIDDEN: 1, OWN: 1, SCOPE: 2}
EVERYTHING = "*"
"""The tenant of a view that sees every scope: the node's own."""
ANYBODY = ""
"""The name of the view of addresses that nothing is known of."""


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One line of what is known of views and scopes.

    ADDRESS: an address (`of`) has the view `values[0]`. VIEW: a view has the namespace `values[0]`, for completion (empty: none),
    and the tenant `values[1]` (empty: none). HIDDEN: from a view the group `values[0]` is hidden. OWN: `values[0]` is a scope of
    the view's own. SCOPE: a scope has the tenant `values[0]` and the group `values[1]` (empty: none).
    """

    kind: str
    of: str
    values: tuple[str, ...]

    @classmethod
    def from_row(cls, row: Iterable[object]) -> Fact:
        """The inverse of `row`. Raises ValueError for what is no fact."""
        kind, of, *values = (str(field) for field in row)
        if len(values) != _VALUES.get(kind, -1):
            raise ValueError(f"no fact: {kind!r} with {len(values)} values")
        return cls(kind, of, tuple(values))

    def row(self) -> list[str]:
        """As a list of strings, for frames."""
        return [self.kind, self.of, *self.values]


@dataclass(frozen=True, slots=True)
class ViewDelta:
    """Facts that appear and facts that go. They never overlap."""

    add: frozenset[Fact] = frozenset()
    remove: frozenset[Fact] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)

    def __len__(self) -> int:
        return len(self.add) + len(self.remove)


@dataclass(frozen=True, slots=True)
class Sight:
    """What an asker may see. Equal sights see the same, so prepared replies are kept per sight."""

    tenant: str = ""
    hidden: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()


@dataclass(eq=False, slots=True)
class Asker:
    """What is known of the sender of a query; one for all addresses of a view. `namespace` is that of its search path, as a label
    in lower case; empty if its names are not to be completed.
    """

    namespace: bytes = b""
    sight: Sight = Sight()
    shared: FastCache | None = None
    personal: FastCache | None = None
    """Where its prepared replies are; None until there are any. See `prepared`."""


class Views:
    """All facts, indexed for answering.

    Promise: `apply` costs time in its delta and in the hidden groups of the views it touches; `sees` is one look into each of two
    maps and a set.
    """

    def __init__(self) -> None:
        self.facts: set[Fact] = set()
        self.askers: dict[bytes, Asker] = {}
        """By packed address. An asker stays the same object while its view has addresses."""
        self.anybody = Asker()
        """The asker for every other address."""
        self.completing = False
        """Whether there is any view whose names are completed."""
        self._scopes: dict[str, tuple[str, str]] = {}
        self._views: dict[str, tuple[str, str]] = {}
        self._sets: dict[tuple[str, str], set[str]] = {}
        self._by_view: dict[str, Asker] = {ANYBODY: self.anybody}
        self._uses: Counter[str] = Counter()

    def asker(self, client: bytes) -> Asker:
        """Who has a packed address."""
        return self.askers.get(client, self.anybody)

    def sees(self, sight: Sight, scope: str) -> bool:
        """Whether a scope exists for somebody."""
        found = self._scopes.get(scope)
        if found is None or sight.tenant == EVERYTHING:
            return True
        tenant, group = found
        return tenant in ("", sight.tenant) and (group not in sight.hidden or scope in sight.own)

    def apply(self, delta: ViewDelta) -> set[str]:
        """Put a change in place; returns the scopes that belong to somebody else or to another group now. Raises ValueError for
        an address that is none.
        """
        gone, new = delta.remove & self.facts, delta.add - self.facts
        for fact in gone:
            self._forget(fact)
        for fact in new:
            self._learn(fact)
        for view in {fact.of for fact in gone | new if fact.kind in (VIEW, HIDDEN, OWN)}:
            if view in self._by_view:
                self._describe(view)
        return {fact.of for fact in gone | new if fact.kind == SCOPE}

    def _learn(self, fact: Fact) -> None:
        match fact:
            case Fact("address", of, (view,)):
                # Read first: what is no address must not be kept as if it were one.
                packed = ip_address(of).packed
                self.askers[packed] = self._hold(view)
            case Fact("view", of, (namespace, tenant)):
                self._views[of] = namespace, tenant
                self.completing = self.completing or bool(namespace)
                self._hold(of)
            case Fact("scope", of, (tenant, group)):
                self._scopes[of] = tenant, group
            case Fact(kind, of, (value,)):
                self._sets.setdefault((kind, of), set()).add(value)
        self.facts.add(fact)

    def _forget(self, fact: Fact) -> None:
        self.facts.discard(fact)
        match fact:
            case Fact("address", of, (view,)):
                self.askers.pop(ip_address(of).packed, None)
                self._release(view)
            case Fact("view", of, _):
                self._views.pop(of, None)
                self._release(of)
            case Fact("scope", of, _):
                self._scopes.pop(of, None)
            case Fact(kind, of, (value,)):
                rest = self._sets[kind, of]
                rest.discard(value)
                if not rest:
                    del self._sets[kind, of]

    def _hold(self, view: str) -> Asker:
        """The asker of a view, with one fact more that needs it. Facts come in any order."""
        self._uses[view] += 1
        if view not in self._by_view:
            self._by_view[view] = Asker()
            self._describe(view)
        return self._by_view[view]

    def _release(self, view: str) -> None:
        self._uses[view] -= 1
        if not self._uses[view]:
            del self._uses[view]
            if view != ANYBODY:
                del self._by_view[view]

    def _describe(self, view: str) -> None:
        asker = self._by_view[view]
        namespace, tenant = self._views.get(view, ("", ""))
        asker.namespace = namespace.encode()
        asker.shared = asker.personal = None
        asker.sight = Sight(tenant, frozenset(self._sets.get((HIDDEN, view), ())), frozenset(self._sets.get((OWN, view), ())))
