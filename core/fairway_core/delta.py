"""What should be, what is, and the difference.

           desired (claims by owners)          actual (as observed or committed)
        +------------------------------+------------------------------+
        |  pending adds                |  equal: nothing to do        |  pending deletes  |
        +------------------------------+------------------------------+
                        pending changes: in both, with different values

Several owners may claim the same key (two ports on one virtual IP). The smallest owner's value wins, so the outcome does
not depend on the order of events; a claim that loses with another value is a conflict and can be asked for.
Cost: proportional to what is declared and what differs, never to the total.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Owner = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delta(Generic[K, V]):
    """Steps from actual to desired. `change` maps a key to (old, new); `delete` to the old value."""

    add: Mapping[K, V] = field(default_factory=dict)
    change: Mapping[K, tuple[V, V]] = field(default_factory=dict)
    delete: Mapping[K, V] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.add or self.change or self.delete)

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.delete)


class DeltaTracker(Generic[K, V]):
    """Tracks desired against actual per key."""

    def __init__(self) -> None:
        self._owned: dict[Owner, dict[K, V]] = {}
        # A key has one claimant nearly always; a collection for each would be most of the memory.
        self._holders: dict[K, Owner] = {}
        self._others: dict[K, set[Owner]] = {}
        self._actual: dict[K, V] = {}
        self._dirty: set[K] = set()

    @property
    def actual(self) -> Mapping[K, V]:
        """What is there, as far as is known."""
        return self._actual

    def declare(self, owner: Owner, wanted: Mapping[K, V]) -> None:
        """Replace everything `owner` wants by `wanted`; an empty mapping withdraws it."""
        before = self._owned.get(owner, {})
        for key in before.keys() - wanted.keys():
            self._withdraw(key, owner)
            self._dirty.add(key)
        for key, value in wanted.items():
            if key not in before:
                self._claim(key, owner)
                self._dirty.add(key)
            elif before[key] != value:
                self._dirty.add(key)
        if wanted:
            self._owned[owner] = dict(wanted)
        else:
            self._owned.pop(owner, None)

    def _claim(self, key: K, owner: Owner) -> None:
        holder = self._holders.get(key)
        if holder is None:
            self._holders[key] = owner
            return
        self._holders[key] = min(holder, owner)
        self._others.setdefault(key, set()).add(max(holder, owner))

    def _withdraw(self, key: K, owner: Owner) -> None:
        others = self._others.get(key)
        if not others:
            del self._holders[key]
            return
        if self._holders[key] == owner:
            owner = self._holders[key] = min(others)
        others.discard(owner)
        if not others:
            del self._others[key]

    def owners(self) -> Iterable[Owner]:
        """Everybody who wants something."""
        return self._owned.keys()

    def observe(self, actual: Mapping[K, V]) -> None:
        """Replace what is known to be there, after a full read."""
        for key in actual.keys() | self._holders.keys() | self._actual.keys():
            if self.desired(key) != actual.get(key):
                self._dirty.add(key)
        self._actual = dict(actual)

    def desired(self, key: K) -> V | None:
        """The winning claim on `key`."""
        holder = self._holders.get(key)
        return self._owned[holder][key] if holder is not None else None

    def pending(self) -> Delta[K, V]:
        """The difference now. Does not change anything."""
        add: dict[K, V] = {}
        change: dict[K, tuple[V, V]] = {}
        delete: dict[K, V] = {}
        for key in self._dirty:
            wanted, have = self.desired(key), self._actual.get(key)
            if wanted is None and have is not None:
                delete[key] = have
            elif wanted is not None and have is None:
                add[key] = wanted
            elif wanted is not None and have is not None and wanted != have:
                change[key] = (have, wanted)
        return Delta(add, change, delete)

    def committed(self, delta: Delta[K, V]) -> None:
        """Record that `delta` is in place."""
        self._actual.update(delta.add)
        self._actual.update({key: new for key, (_old, new) in delta.change.items()})
        for key in delta.delete:
            self._actual.pop(key, None)
        self._dirty = {key for key in self._dirty if self.desired(key) != self._actual.get(key)}

    def conflicts(self, key: K) -> dict[Owner, V]:
        """Claims on `key` that lost to another value."""
        winner = self.desired(key)
        return {owner: value for owner in self._others.get(key, ()) if (value := self._owned[owner][key]) != winner}
