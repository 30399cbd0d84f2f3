"""The service zone as a table: records, deltas, and the tree that answers are looked up in.

A record is one value; a zone is a set of records. So several owners may give records to one name (two containers with one
alias), applying a delta twice changes nothing, and a delta costs time in its own size only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fairway_dns.names import suffixes, to_key
from fairway_dns.wire import TYPES, Tail

TTL = 5
"""Seconds every record of the service zone may be kept (as Kubernetes clusters do)."""


@dataclass(frozen=True, slots=True, order=True)
class Record:
    """One resource record: `name` as lower-case text without trailing dot, `type` its mnemonic, `data` in presentation form.

    A, AAAA: the address; CNAME, PTR, NS: a name; SRV: "priority weight port target"; TXT: the text.
    """

    name: str
    type: str
    data: str


@dataclass(frozen=True, slots=True)
class ZoneDelta:
    """Records that appear and records that go. They never overlap."""

    add: frozenset[Record] = frozenset()
    remove: frozenset[Record] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.add or self.remove)

    def __len__(self) -> int:
        return len(self.add) + len(self.remove)


@dataclass(slots=True)
class Node:
    """One name: data by type number in sorted order, how many existing names lie right below, and reply tails built so far."""

    sets: dict[int, list[str]] = field(default_factory=dict)
    below: int = 0
    tails: dict[int, tuple[Tail, ...]] = field(default_factory=dict)


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
        for name in held:
            self._grow(to_key(name)).below += 1

    def __len__(self) -> int:
        return sum(len(data) for node in self._nodes.values() for data in node.sets.values())

    def find(self, key: bytes) -> Node | None:
        """The node of a name (a key), or None if the name does not exist."""
        return self._nodes.get(key)

    def apply(self, delta: ZoneDelta, revision: int | None = None) -> None:
        """Put the delta in place and set the revision, if given. Raises ValueError for names or types nobody can ask for."""
        for record in delta.remove:
            self._remove(record)
        for record in delta.add:
            self._add(record)
        self._forget_tails()
        if revision is not None:
            self.revision = revision

    def records(self) -> Iterator[tuple[bytes, int, str]]:
        """Every record as (key, type number, data), in no particular order."""
        for key, node in self._nodes.items():
            for rtype, items in node.sets.items():
                for data in items:
                    yield key, rtype, data

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
        node = self._grow(to_key(record.name))
        data = node.sets.setdefault(TYPES[record.type], [])
        if record.data not in data:
            data.append(record.data)
            data.sort()
            node.tails.pop(TYPES[record.type], None)

    def _remove(self, record: Record) -> None:
        key = to_key(record.name)
        node = self._nodes.get(key)
        rtype = TYPES[record.type]
        if node is None or record.data not in node.sets.get(rtype, ()):
            return
        node.sets[rtype].remove(record.data)
        node.tails.pop(rtype, None)
        if not node.sets[rtype]:
            del node.sets[rtype]
            self._prune(key)

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
