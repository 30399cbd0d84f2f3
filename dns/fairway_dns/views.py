"""Who asks, and what is hidden from them. Pure.

Each record belongs to a scope: "namespace/service", or "namespace/" for names of pods; records of the zone itself to none. A
scope may have a tenant, for whose pods alone it exists, and a group: the scopes that policy treats alike. A view is what some
addresses have in common: their tenant, and scopes of their own, which policy never hides. Of groups, a view sees those that are
not closed, unless it is confined; its exceptions are the other way round. A view may also belong to egress scopes (see `watch`),
whose names are watched for it. All of this is facts, values like records: a change is two sets of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TypeVar

from fairway_dns.fastcache import FastCache
from fairway_dns.watch import Watch, pattern_key, scope_number

K = TypeVar("K")
ADDRESS, VIEW, CONFINED, EXCEPT, OWN, SCOPE, CLOSED = "address", "view", "confined", "except", "own", "scope", "closed"
WATCH, PATTERN = "watch", "pattern"
_VALUES = {ADDRESS: 1, VIEW: 2, CONFINED: 0, EXCEPT: 1, OWN: 1, SCOPE: 2, CLOSED: 0, WATCH: 1, PATTERN: 1}
EVERYTHING = "*"
"""The tenant of a view that sees every scope: the node's own."""
ANYBODY = ""
"""The name of the view of addresses that nothing is known of."""


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """One line of what is known of views and scopes.

    ADDRESS: an address (`of`) has the view `values[0]`. VIEW: a view has the namespace `values[0]`, for completion (empty: none),
    and the tenant `values[1]` (empty: none). CONFINED: a view. EXCEPT: of a view the group `values[0]`. OWN: `values[0]` is a
    scope of the view's own. SCOPE: a scope has the tenant `values[0]` and the group `values[1]` (empty: none). CLOSED: a group.
    WATCH: a view belongs to the egress scope `values[0]`, a number. PATTERN: of such a scope the pattern `values[0]`.
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
    """What an asker may see, and what is watched for it (None: nothing). Equal sights see the same, so prepared replies are kept
    per sight.
    """

    tenant: str = ""
    confined: bool = False
    exceptions: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    watch: Watch | None = None

    @property
    def label(self) -> str:
        """In metrics: the tenant."""
        return self.tenant or "none"


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

    Promise: `apply` costs time in its delta and in the exceptions of the views it touches; `sees` is a few looks into sets.
    """

    def __init__(self) -> None:
        self.facts: set[Fact] = set()
        self.askers: dict[bytes, Asker] = {}
        """By packed address. An asker stays the same object while its view has addresses."""
        self.anybody = Asker()
        """The asker for every other address."""
        self.completing = False
        """Whether there is any view whose names are completed."""
        self.watching = 0
        """How many egress scopes somebody belongs to."""
        self._scopes: dict[str, tuple[str, str]] = {}
        self._views: dict[str, tuple[str, str]] = {}
        self._sets: dict[tuple[str, str], set[str]] = {}
        self._members: dict[str, set[str]] = {}
        self._watchers: dict[str, set[str]] = {}
        self._closed: set[str] = set()
        self._confined: set[str] = set()
        self._by_view: dict[str, Asker] = {ANYBODY: self.anybody}
        self._uses: Counter[str] = Counter()

    def asker(self, client: bytes) -> Asker:
        """Who has a packed address."""
        return self.askers.get(client, self.anybody)

    def hidden_by(self, sight: Sight, scope: str) -> str | None:
        """Why a scope does not exist for somebody: the tenant for whose pods alone it does, empty if policy hides it. None if it
        exists.
        """
        if self.sees(sight, scope):
            return None
        tenant, _group = self._scopes[scope]
        return tenant if tenant != sight.tenant else ""

    def sees(self, sight: Sight, scope: str) -> bool:
        """Whether a scope exists for somebody."""
        found = self._scopes.get(scope)
        if found is None or sight.tenant == EVERYTHING:
            return True
        tenant, group = found
        if tenant not in ("", sight.tenant):
            return False
        usual = not sight.confined and group not in self._closed
        return not group or scope in sight.own or usual != (group in sight.exceptions)

    def apply(self, delta: ViewDelta) -> set[str]:
        """Put a change in place; returns the scopes that belong to somebody else or to another group now. Raises ValueError for
        an address that is none.
        """
        gone, new = delta.remove & self.facts, delta.add - self.facts
        for fact in gone:
            self._forget(fact)
        for fact in new:
            self._learn(fact)
        changed = {fact.of for fact in gone | new if fact.kind in (VIEW, CONFINED, EXCEPT, OWN, WATCH)}
        changed.update(*(self._watchers.get(fact.of, ()) for fact in gone | new if fact.kind == PATTERN))
        for view in changed & self._by_view.keys():
            self._describe(view)
        groups = {fact.of for fact in gone | new if fact.kind == CLOSED}
        return {fact.of for fact in gone | new if fact.kind == SCOPE}.union(*(self._members.get(group, ()) for group in groups))

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
                self._members.setdefault(group, set()).add(of)
            case Fact("closed", of, _):
                self._closed.add(of)
            case Fact("confined", of, _):
                self._confined.add(of)
            case Fact(kind, of, (value,)):
                _check(fact)
                self._sets.setdefault((kind, of), set()).add(value)
                if kind == WATCH:
                    self._watchers.setdefault(value, set()).add(of)
        self.watching = len(self._watchers)
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
            case Fact("scope", of, (_tenant, group)):
                self._scopes.pop(of, None)
                _discard(self._members, group, of)
            case Fact("closed", of, _):
                self._closed.discard(of)
            case Fact("confined", of, _):
                self._confined.discard(of)
            case Fact(kind, of, (value,)):
                _discard(self._sets, (kind, of), value)
                if kind == WATCH:
                    _discard(self._watchers, value, of)
        self.watching = len(self._watchers)

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
        exceptions, own = (frozenset(self._sets.get((kind, view), ())) for kind in (EXCEPT, OWN))
        asker.sight = Sight(tenant, view in self._confined, exceptions, own, self._watch(view))

    def _watch(self, view: str) -> Watch | None:
        scopes = self._sets.get((WATCH, view), ())
        patterns = [(int(scope), pattern) for scope in scopes for pattern in self._sets.get((PATTERN, scope), ())]
        return Watch.of(patterns) if patterns else None


def _check(fact: Fact) -> None:
    """Raises ValueError for an egress scope or a pattern that is none."""
    if fact.kind == PATTERN:
        scope_number(fact.of)
        pattern_key(fact.values[0])
    elif fact.kind == WATCH:
        scope_number(fact.values[0])


def _discard(book: dict[K, set[str]], key: K, value: str) -> None:
    values = book[key]
    values.discard(value)
    if not values:
        del book[key]
