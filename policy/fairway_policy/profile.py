"""Profiles: permits as the kernel holds them, found by content, so that equal permits share one id and its elements."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairway_kernel.nft.objects import Elements, ElementValue, Range, Slot
from fairway_policy.cidr import WorldPermit, address_text
from fairway_policy.layout import ALL_PROFILE, FAMILY_SETS, PROFILE, PROFILE_BIT
from fairway_policy.permit import EVERYTHING, Permit

Content = Permit | WorldPermit
_RESERVED = frozenset({PROFILE_BIT, ALL_PROFILE})


@dataclass(slots=True)
class ProfileTable:
    """Ids (2**31 and up) of the permits in use, counted.

    Promise: an id is a hash of its content, moved on by one while another content holds it; content behind an id never changes.
    `EVERYTHING` has the constant id `ALL_PROFILE`.
    """

    _ids: dict[Content, int] = field(default_factory=lambda: {EVERYTHING: ALL_PROFILE})
    _contents: dict[int, Content] = field(default_factory=lambda: {ALL_PROFILE: EVERYTHING})
    _uses: Counter[int] = field(default_factory=Counter)
    _touched: set[int] = field(default_factory=set)
    _told: set[int] = field(default_factory=set)

    def learn(self, contents: Mapping[int, Content]) -> None:
        """Keep these ids for these contents."""
        for number, content in contents.items():
            self._contents[number] = content
            self._ids[content] = number

    def acquire(self, content: Content) -> int:
        """The id of a permit that is not empty, with one more use."""
        if isinstance(content, WorldPermit):
            content = content.uniform() or content
        number = self._ids.get(content)
        if number is None:
            number = self._probe(content)
            self._ids[content] = number
            self._contents[number] = content
        self._uses[number] += 1
        self._touched.add(number)
        return number

    def _probe(self, content: Content) -> int:
        digest = hashlib.blake2b(repr(content).encode(), digest_size=4).digest()
        number = PROFILE_BIT | int.from_bytes(digest)
        while number in self._contents or number in _RESERVED:
            number = PROFILE_BIT | (number + 1)
        return number

    def release(self, number: int) -> None:
        """One use less. Content is remembered until `settle`, so that a delta can still be judged."""
        self._uses[number] -= 1
        self._touched.add(number)

    def content(self, number: int) -> Content | None:
        """The permit behind an id, if known."""
        return self._contents.get(number)

    def settle(self) -> None:
        """Forget contents that nothing uses any more."""
        for number in [number for number, content in self._contents.items() if not self._uses[number] and content != EVERYTHING]:
            del self._ids[self._contents.pop(number)]
            del self._uses[number]

    def take_changes(self) -> dict[int, Elements]:
        """Ids whose use began or ended since the last call, with their elements; empty for an id nothing uses."""
        out: dict[int, Elements] = {}
        for number in self._touched:
            used = self._uses[number] > 0
            if used != (number in self._told):
                out[number] = profile_elements(number, self._contents[number]) if used else {}
                self._told ^= {number}
        self._touched.clear()
        return out


def profile_elements(number: int, content: Content) -> Elements:
    """The elements that make a profile work."""
    if isinstance(content, Permit):
        return dict.fromkeys(
            (Slot(PROFILE.name, (number, protocol.lower(), Range(low, high))) for protocol, low, high in content.ranges), ()
        )
    elements: dict[Slot, ElementValue] = {}
    for atom in content.atoms:
        sets = FAMILY_SETS[atom.family]
        addresses = Range(address_text(atom.family, atom.low), address_text(atom.family, atom.high))
        if atom.permit.everything:
            elements[Slot(sets.cidr.name, (number, addresses))] = ()
        for protocol, low, high in atom.permit.ranges:
            elements[Slot(sets.cidr_port.name, (number, addresses, protocol.lower(), Range(low, high)))] = ()
    return elements
