"""What the kernel tables shall say about identities: subjects, pairs, and the profiles both refer to."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.delta import Owner
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_kernel.nft.objects import Elements, ElementValue, SetDecl, Slot
from fairway_policy import layout
from fairway_policy.cidr import WorldPermit
from fairway_policy.permit import Permit
from fairway_policy.profile import ProfileTable
from fairway_policy.relations import MultiMap
from fairway_policy.rules import DIRECTIONS

NO_PROFILE = 0


@dataclass(frozen=True, slots=True)
class DirectionSets:
    """The sets of one direction. In pairs the key is (source, destination), whoever is the subject."""

    isolated: SetDecl
    pair: SetDecl
    base: SetDecl
    world: SetDecl


SETS = {
    EGRESS: DirectionSets(layout.ISOLATED_EGRESS, layout.PAIR_EGRESS, layout.BASE_EGRESS, layout.WORLD_EGRESS),
    INGRESS: DirectionSets(layout.ISOLATED_INGRESS, layout.PAIR_INGRESS, layout.BASE_INGRESS, layout.WORLD_INGRESS),
}
Subject = tuple[str, int]
"""(direction, identity number)"""


class IdentityTables:
    """Subjects and pairs as profile ids, and which owners' elements changed since they were last taken."""

    def __init__(self, profiles: ProfileTable) -> None:
        self._profiles = profiles
        self._subjects: dict[Subject, tuple[int, int]] = {}
        self._pairs: dict[Subject, dict[int, int]] = {}
        self._subjects_of: MultiMap[int, Subject] = MultiMap()
        self._changed_subjects: set[Subject] = set()
        self._changed_pairs: set[tuple[int, int]] = set()

    def isolated(self, direction: str, number: int) -> bool:
        """Whether the identity is isolated in this direction."""
        return (direction, number) in self._subjects

    def is_peer(self, number: int) -> bool:
        """Whether some subject allows this identity more than it allows everybody."""
        return number in self._subjects_of

    def subject(self, subject: Subject) -> tuple[int, int] | None:
        """The profiles of an isolated subject: towards every pod, and towards addresses of no pod. None if it is not isolated."""
        return self._subjects.get(subject)

    def pair(self, subject: Subject, peer: int) -> int:
        """The profile of a subject towards one identity; 0 if that is no more than towards everybody."""
        return self._pairs.get(subject, {}).get(peer, NO_PROFILE)

    def subjects_of(self, direction: str, peer: int) -> set[int]:
        """The identities that have a pair element with this peer in one direction."""
        return {number for found, number in self._subjects_of[peer] if found == direction}

    def peers(self, subject: Subject) -> set[int]:
        """The identities that have a pair element with this subject."""
        return set(self._pairs.get(subject, ()))

    def set_subject(self, subject: Subject, base: Permit, world: WorldPermit) -> None:
        """The subject is isolated and allows `base` to every pod and `world` to addresses of no pod."""
        new = self._acquire(base), self._acquire(world)
        old = self._subjects.get(subject)
        self._release(*(old or ()))
        if new != old:
            self._subjects[subject] = new
            self._changed_subjects.add(subject)

    def clear_subject(self, subject: Subject) -> None:
        """The subject is not isolated (any more): nothing is said about it."""
        for peer in self.peers(subject):
            self.set_pair(subject, peer, None)
        old = self._subjects.pop(subject, None)
        if old is not None:
            self._release(*old)
            self._changed_subjects.add(subject)

    def set_pair(self, subject: Subject, peer: int, allowed: Permit | None) -> None:
        """What the subject allows to one identity; None if that is no more than its base."""
        new = self._acquire(allowed) if allowed else NO_PROFILE
        old = self._pairs.get(subject, {}).get(peer, NO_PROFILE)
        self._release(old)
        if new == old:
            return
        if new:
            self._pairs.setdefault(subject, {})[peer] = new
            self._subjects_of.add(peer, subject)
        else:
            self._drop_pair(subject, peer)
        self._changed_pairs.add(_ends(subject, peer))

    def _drop_pair(self, subject: Subject, peer: int) -> None:
        del self._pairs[subject][peer]
        if not self._pairs[subject]:
            del self._pairs[subject]
        self._subjects_of.discard(peer, subject)

    def remove_identity(self, number: int) -> None:
        """Forget an identity as subject and as peer."""
        for direction in DIRECTIONS:
            self.clear_subject((direction, number))
        for subject in set(self._subjects_of[number]):
            self.set_pair(subject, number, None)

    def _acquire(self, allowed: Permit | WorldPermit) -> int:
        return self._profiles.acquire(allowed) if allowed else NO_PROFILE

    def _release(self, *profiles: int) -> None:
        for profile in profiles:
            if profile != NO_PROFILE:
                self._profiles.release(profile)

    def take_changes(self) -> dict[Owner, Elements]:
        """The complete elements of every owner that changed since the last call."""
        out: dict[Owner, Elements] = {}
        for direction, number in self._changed_subjects:
            out["policy", "subject", direction, str(number)] = self._subject_elements(direction, number)
        for source, destination in self._changed_pairs:
            out["policy", "pair", str(source), str(destination)] = self._pair_elements(source, destination)
        for profile, elements in self._profiles.take_changes().items():
            out["policy", "profile", f"{profile:08x}"] = elements
        self._changed_subjects.clear()
        self._changed_pairs.clear()
        return out

    def _subject_elements(self, direction: str, number: int) -> Elements:
        known = self._subjects.get((direction, number))
        if known is None:
            return {}
        sets, (base, world) = SETS[direction], known
        elements: dict[Slot, ElementValue] = {Slot(sets.isolated.name, (number,)): ()}
        if base:
            elements[Slot(sets.base.name, (number,))] = (base,)
        if world:
            elements[Slot(sets.world.name, (number,))] = (world,)
        return elements

    def _pair_elements(self, source: int, destination: int) -> Elements:
        elements: dict[Slot, ElementValue] = {}
        for subject, peer in (((EGRESS, source), destination), ((INGRESS, destination), source)):
            profile = self._pairs.get(subject, {}).get(peer, NO_PROFILE)
            if profile:
                elements[Slot(SETS[subject[0]].pair.name, (source, destination))] = (profile,)
        return elements


def _ends(subject: Subject, peer: int) -> tuple[int, int]:
    direction, number = subject
    return (number, peer) if direction == EGRESS else (peer, number)
