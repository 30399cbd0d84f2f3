"""Does a difference of elements take rights away? Then established connections must be judged again."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.delta import Delta
from fairway_core.model.policy import INGRESS
from fairway_kernel.nft.objects import ElementValue, Slot
from fairway_policy import layout
from fairway_policy.cidr import WorldPermit, world_permit
from fairway_policy.permit import Permit
from fairway_policy.profile import ProfileTable
from fairway_policy.rules import DIRECTIONS
from fairway_policy.tables import SETS, IdentityTables

_ADDRESS_SETS = frozenset(decl.name for sets in layout.FAMILY_SETS.values() for decl in (sets.source, sets.destination))
_ISOLATED_SETS = {sets.isolated.name: direction for direction, sets in SETS.items()}
_RIGHT_SETS = {decl.name: direction for direction, sets in SETS.items() for decl in (sets.pair, sets.base, sets.world)}


@dataclass(frozen=True, slots=True)
class Rights:
    """The state after the change, to look details up in."""

    tables: IdentityTables
    profiles: ProfileTable

    def isolated(self, number: object) -> bool:
        return isinstance(number, int) and any(self.tables.isolated(direction, number) for direction in DIRECTIONS)

    def privileged(self, number: object) -> bool:
        return isinstance(number, int) and self.tables.is_peer(number)

    def subject_lives(self, slot: Slot) -> bool:
        """Whether the subject of a pair, base or world element is (still) isolated in its direction."""
        direction = _RIGHT_SETS[slot.set]
        number = slot.key[1] if slot.set == SETS[INGRESS].pair.name else slot.key[0]
        return isinstance(number, int) and self.tables.isolated(direction, number)

    def shrinks(self, old: ElementValue, new: ElementValue) -> bool:
        """Whether the profile `new` lacks anything that `old` allowed; True if a profile is not known any more."""
        before, after = self._content(old), self._content(new)
        if before is None or after is None:
            return True
        if isinstance(before, Permit) and isinstance(after, Permit):
            return not after.covers(before)
        return not _along_the_line(after).covers(_along_the_line(before))

    def _content(self, value: ElementValue) -> Permit | WorldPermit | None:
        return self.profiles.content(value[0]) if value and isinstance(value[0], int) else None


def _along_the_line(content: Permit | WorldPermit) -> WorldPermit:
    return world_permit(content, ()) if isinstance(content, Permit) else content


def takes_rights_away(delta: Delta[Slot, ElementValue], rights: Rights) -> bool:
    """See `PolicyCompiler.tightens`.

    New addresses count where their pod is isolated: a connection to the address may have been let through, and be on the fast
    path, before it was the pod's (a datagram flow sent ahead to an address about to be given out, or a reused address).
    """
    return (
        any(_added(slot, value, rights) for slot, value in delta.add.items())
        or any(_changed(slot, old, new, rights) for slot, (old, new) in delta.change.items())
        or any(_deleted(slot, value, rights) for slot, value in delta.delete.items())
    )


def _added(slot: Slot, value: ElementValue, rights: Rights) -> bool:
    return slot.set in _ISOLATED_SETS or (slot.set in _ADDRESS_SETS and rights.isolated(value[0]))


def _changed(slot: Slot, old: ElementValue, new: ElementValue, rights: Rights) -> bool:
    if slot.set in _ADDRESS_SETS:
        return True
    return slot.set in _RIGHT_SETS and rights.subject_lives(slot) and rights.shrinks(old, new)


def _deleted(slot: Slot, value: ElementValue, rights: Rights) -> bool:
    if slot.set in _ADDRESS_SETS:
        return rights.privileged(value[0])
    return slot.set in _RIGHT_SETS and rights.subject_lives(slot)
