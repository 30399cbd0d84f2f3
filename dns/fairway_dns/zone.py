"""The service zone as a table: records, deltas, and the tree that answers are looked up in.

A record is one value; a zone is a set of records. So several owners may give records to one name (two containers with one
alias), applying a delta twice changes nothing, and a delta costs time in its own size only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from fairway_dns.names import suffixes, to_key
from fairway_dns.views import ViewDelta
from fairway_dns.wire import TYPES, Tail

TTL = 5
"""Seconds every record of the service zone may be kept (as Kubernetes clusters do)."""


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One resource record: `name` as lower-case text without trailing dot, `type` its mnemonic, `data` in presentation form.

    A, AAAA: the address; CNAME, PTR, NS: a name; SRV: "priority weight port target"; TXT: the text. `scope` is what it belongs to
    (see `views`), empty where names are hidden from nobody; it follows from the rest.
    """

    name: str
    type: str
    data: str
    scope: str = ""


@dataclass(frozen=True, slots=True)
class ZoneDelta:
    """Records that appear and records that go, which never overlap, and what changed of the views in the same step."""

    add: frozenset[Record] = frozenset()
    remove: frozenset[Record] = frozenset()
    views: ViewDelta = ViewDelta()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or self.views)

    def __len__(self) -> int:
        return len(self.add) + len(self.remove) + len(self.views)


@dataclass(slots=True)
class Node:
    """One name: data by type number in sorted order, how many existing names lie right below, and reply tails built so far.

    Where scopes are kept, `scopes` says what each piece of data belongs to, and `under` how many records of each lie below.
    """

    sets: dict[int, list[str]] = field(default_factory=dict)
    below: int = 0
    tails: dict[int, tuple[Tail, ...]] = field(default_factory=dict)
    scopes: dict[str, str] | None = None
    under: dict[str, int] | None = None


class Names(Protocol):
    """The zone, or what an asker may see of it: all that answers are made from."""

    @property
    def revision(self) -> int | None:
        """The store revision the records stand for; None before the first synchronisation."""

    def find(self, key: bytes) -> Node | None:
        """The node of a name (a key), or None if the name does not exist."""

    def keep_tails(self, node: Node, rtype: int, tails: tuple[Tail, ...], foreign: bool) -> None:
        """Remember built replies. `foreign` ones hold data of other names too and are dropped at any change."""


class Zone:
    """The records in a tree of names. A name exists if it has records or a name below it does (RFC 8020): the latter, an empty
    non-terminal, answers NODATA. Names in `held` exist always.

    Promise: `apply` is one step for whoever reads between calls; its cost is the size of the delta.
    """

    def __init__(self, held: Iterable[str] = ()) -> None:
        self._nodes: dict[bytes, Node] = {}
        self.revision: int | None = None
        """The store revision the records stand for; None before the first synchronisation."""
        self._shared_tails: list[dict[int, tuple[Tail, ...]]] = []
        self._of_scope: dict[str, set[bytes]] | None = None
        self._held = tuple(map(to_key, held))
        for key in self._held:
            self._grow(key).below += 1

    def __len__(self) -> int:
        return sum(len(data) for node in self._nodes.values() for data in node.sets.values())

    def find(self, key: bytes) -> Node | None:
        """The node of a name (a key), or None if the name does not exist."""
        return self._nodes.get(key)

    def keep_scopes(self) -> None:
        """From now on remember which scopes lie where. Records that are there already belong to none."""
        self._of_scope = {}
        for key in self._held:
            self._count((name for _pos, name in suffixes(key)), "", 1)
        for key, _rtype, _data, _scope in self.records():
            self._count(_above(key), "", 1)

    @property
    def scoped(self) -> bool:
        """Whether scopes are kept."""
        return self._of_scope is not None

    def of_scope(self, scope: str) -> frozenset[bytes]:
        """The names that have records of a scope."""
        return frozenset((self._of_scope or {}).get(scope, ()))

    def apply(self, delta: ZoneDelta, revision: int | None = None) -> None:
        """Put the delta in place and set the revision, if given. Raises ValueError for names or types nobody can ask for."""
        for record in delta.remove:
            self._remove(record)
        for record in delta.add:
            self._add(record)
        self._forget_tails()
        if revision is not None:
            self.revision = revision

    def shed(self, most: int) -> bool:
        """Drop any `most` names of a table that nobody reads any more; whether there are others."""
        for _ in range(min(most, len(self._nodes))):
            self._nodes.popitem()
        return bool(self._nodes)

    def records(self) -> Iterator[tuple[bytes, int, str, str]]:
        """Every record as (key, type number, data, scope), in no particular order."""
        for key, node in self._nodes.items():
            scopes = node.scopes or {}
            for rtype, items in node.sets.items():
                for data in items:
                    yield key, rtype, data, scopes.get(data, "")

    def keep_tails(self, node: Node, rtype: int, tails: tuple[Tail, ...], foreign: bool) -> None:
        """Remember built replies. `foreign` ones hold data of other names too and are dropped at any change."""
        node.tails[rtype] = tails
        if foreign:
            self._shared_tails.append(node.tails)

    def _forget_tails(self) -> None:
        for tails in self._shared_tails:
            tails.clear()
        self._shared_tails = []

    def _add(self, record: Record) -> None:
        key = to_key(record.name)
        node = self._grow(key)
        data = node.sets.setdefault(TYPES[record.type], [])
        if record.data not in data:
            data.append(record.data)
            data.sort()
            node.tails.pop(TYPES[record.type], None)
            if self._of_scope is not None:
                self._count(_above(key), record.scope, 1)
                if record.scope:
                    node.scopes = node.scopes or {}
                    node.scopes[record.data] = record.scope
                    self._of_scope.setdefault(record.scope, set()).add(key)

    def _count(self, names: Iterable[bytes], scope: str, step: int) -> None:
        """One record of a scope more or less below these names."""
        for name in names:
            node = self._nodes[name]
            under = node.under = node.under or {}
            under[scope] = under.get(scope, 0) + step
            if not under[scope]:
                del under[scope]

    def _remove(self, record: Record) -> None:
        key = to_key(record.name)
        node = self._nodes.get(key)
        rtype = TYPES[record.type]
        if node is None or record.data not in node.sets.get(rtype, ()):
            return
        node.sets[rtype].remove(record.data)
        node.tails.pop(rtype, None)
        if self._of_scope is not None:
            self._unscope(key, node, record.data)
        if not node.sets[rtype]:
            del node.sets[rtype]
            self._prune(key)

    def _unscope(self, key: bytes, node: Node, data: str) -> None:
        assert self._of_scope is not None
        scope = node.scopes.pop(data, "") if node.scopes else ""
        self._count(_above(key), scope, -1)
        if scope and node.scopes is not None and scope not in node.scopes.values():
            names = self._of_scope[scope]
            names.discard(key)
            if not names:
                del self._of_scope[scope]

    def _grow(self, key: bytes) -> Node:
        """The node of `key`, made along with its missing ancestors."""
        found = self._nodes.get(key)
        if found is not None:
            return found
        made = self._nodes[key] = Node()
        for _pos, parent in list(suffixes(key))[1:]:
            above = self._nodes.get(parent)
            if above is not None:
                above.below += 1
                break
            self._nodes[parent] = Node(below=1)
        return made

    def _prune(self, key: bytes) -> None:
        """Drop `key` and every ancestor that neither has records nor a name below it any more."""
        for _pos, name in list(suffixes(key)):
            node = self._nodes[name]
            if node.sets or node.below:
                return
            del self._nodes[name]
            parent = self._nodes.get(name[1 + name[0] :])
            if parent is None:
                return
            parent.below -= 1


def _above(key: bytes) -> Iterator[bytes]:
    """The names above a name, nearest first, the root left out."""
    return (name for pos, name in suffixes(key) if pos)
