"""Who reaches whom by the tables as compiled, without a packet: for whoever must agree with the firewall, such as DNS."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_policy.cidr import WorldPermit
from fairway_policy.permit import EVERYTHING, NOTHING, Permit
from fairway_policy.pods import PodBook
from fairway_policy.profile import ProfileTable
from fairway_policy.tables import IdentityTables

NOBODY = 0
"""The identity of an address of no pod."""


@dataclass(slots=True)
class Changes:
    """What to ask about again: pods whose identities changed, identities whose own rights did, by direction, and pairs (source,
    destination).
    """

    pods: set[Key] = field(default_factory=set)
    egress: set[int] = field(default_factory=set)
    ingress: set[int] = field(default_factory=set)
    pairs: set[tuple[int, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Freedom:
    """Whether an identity may send everything, or at least something, to every pod."""

    everything: bool
    something: bool


class Reach:
    """Answers from the state of the latest `PolicyCompiler.update`; not for use while an update runs.

    Promise: for addresses of pods `allows` says what the chains do with the first packet of a connection, apart from the two
    exemptions that are not about identities: a pod and itself, a pod and its own node.
    """

    def __init__(self, pods: PodBook, tables: IdentityTables, profiles: ProfileTable) -> None:
        self._pods = pods
        self._tables = tables
        self._profiles = profiles
        self._changes = Changes()

    def numbers(self, pod: Key) -> Mapping[str, int]:
        """The identity number of each address of a pod; none if it has no addresses that policies know."""
        placed = self._pods.get(pod)
        return placed.numbers if placed is not None else {}

    def allows(self, source: int, destination: int, address: str, protocol: str, port: int) -> bool:
        """Whether a connection may begin. `source` NOBODY: an address that no rule names. `destination` NOBODY: `address` says
        which; else it does not matter. `protocol` is upper case; empty: whether anything at all may begin.
        """
        out = self._out(source, destination, address)
        into = self._side(INGRESS, destination, source) if destination else EVERYTHING
        return _meet(out, into) if not protocol else _allows(out, protocol, port) and _allows(into, protocol, port)

    def _out(self, source: int, destination: int, address: str) -> Permit:
        known = self._tables.subject((EGRESS, source)) if source else None
        if known is None or destination:
            return self._side(EGRESS, source, destination) if source else EVERYTHING
        content = self._profiles.content(known[1])
        return content.at(address) if isinstance(content, WorldPermit) else content or NOTHING

    def _side(self, direction: str, subject: int, peer: int) -> Permit:
        known = self._tables.subject((direction, subject))
        if known is None:
            return EVERYTHING
        content = self._profiles.content(self._tables.pair((direction, subject), peer) or known[0])
        return content if isinstance(content, Permit) else NOTHING

    def freedom(self, identity: int) -> Freedom:
        """What an identity may send to pods that let it, whoever they are."""
        known = self._tables.subject((EGRESS, identity)) if identity else None
        base = self._profiles.content(known[0]) if known is not None else EVERYTHING
        return Freedom(base == EVERYTHING, bool(base))

    def destinations(self, identity: int) -> set[int]:
        """Identities with which this one, as the source, has an element of a pair in either direction."""
        return self._tables.peers((EGRESS, identity)) | self._tables.subjects_of(INGRESS, identity)

    def sources(self, identity: int) -> set[int]:
        """Identities with which this one, as the destination, has an element of a pair in either direction."""
        return self._tables.peers((INGRESS, identity)) | self._tables.subjects_of(EGRESS, identity)

    def note(self, owners: Iterable[Owner]) -> None:
        """Remember what an update changed."""
        for owner in owners:
            match owner:
                case ("policy", "address", namespace, name):
                    self._changes.pods.add(Key("Pod", namespace, name))
                case ("policy", "subject", direction, number):
                    (self._changes.egress if direction == EGRESS else self._changes.ingress).add(int(number))
                case ("policy", "pair", source, destination):
                    self._changes.pairs.add((int(source), int(destination)))

    def take_changes(self) -> Changes:
        """What changed since the last call."""
        changes, self._changes = self._changes, Changes()
        return changes


def _allows(permit: Permit, protocol: str, port: int) -> bool:
    return permit.everything or any(name == protocol and low <= port <= high for name, low, high in permit.ranges)


def _meet(one: Permit, other: Permit) -> bool:
    """Whether two permits have anything in common."""
    if one.everything or other.everything:
        return bool(one) and bool(other)
    return any(a == b and low <= up and down <= high for a, low, high in one.ranges for b, down, up in other.ranges)
