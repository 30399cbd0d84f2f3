"""A packet evaluator over compiled elements: what the chains of `layout` do, written in Python.

For whoever must judge by the compiled tables without a kernel, such as the tests that compare them with `verdict`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.model.meta import family_of
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_kernel.nft.objects import Atom, ElementKey, Elements, ElementValue, Range, Slot
from fairway_policy.layout import ALL_PROFILE, FAMILY_SETS, PROFILE, PROFILE_BIT
from fairway_policy.tables import SETS


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection as the forward hook sees it, after address translation. `port` is the destination's."""

    source: str
    destination: str
    protocol: str
    port: int = 0


class Interpreter:
    """Judges packets by a fixed set of elements."""

    def __init__(self, elements: Elements) -> None:
        self._elements = elements
        self._ranges: Mapping[tuple[str, Atom], list[ElementKey]] = _ranges_by_profile(elements)

    def denied_by(self, packet: Packet) -> str | None:
        """The direction in whose chain the packet ends ("Egress" or "Ingress"); None if it is accepted."""
        sets = FAMILY_SETS[family_of(packet.source)]
        source = self._number(sets.source.name, packet.source)
        destination = self._number(sets.destination.name, packet.destination)
        if Slot(sets.self.name, (packet.source, packet.destination)) in self._elements:
            return None
        for direction, subject, peer in ((EGRESS, source, destination), (INGRESS, destination, source)):
            isolated = Slot(SETS[direction].isolated.name, (subject,)) in self._elements
            if isolated and not self._passes(direction, subject, peer, packet):
                return direction
        return None

    def _number(self, name: str, *key: Atom) -> int:
        value: ElementValue = self._elements.get(Slot(name, key), ())
        return value[0] if value and isinstance(value[0], int) else 0

    def _passes(self, direction: str, subject: int, peer: int, packet: Packet) -> bool:
        sets = SETS[direction]
        if not peer:
            profile = self._number(sets.world.name, subject)
            return self._profile(profile, packet) or self._cidr(profile, direction, packet)
        pair = (subject, peer) if direction == EGRESS else (peer, subject)
        profile = self._number(sets.pair.name, *pair)
        if not profile & PROFILE_BIT:
            profile = self._number(sets.base.name, subject)
        return self._profile(profile, packet)

    def _profile(self, profile: int, packet: Packet) -> bool:
        if profile == ALL_PROFILE:
            return True
        return any(_in_ports(rest, packet) for rest in self._ranges.get((PROFILE.name, profile), ()))

    def _cidr(self, profile: int, direction: str, packet: Packet) -> bool:
        address = packet.destination if direction == EGRESS else packet.source
        sets = FAMILY_SETS[family_of(address)]
        for rest in self._ranges.get((sets.cidr.name, profile), ()):
            if _in_addresses(rest[0], address):
                return True
        ported = self._ranges.get((sets.cidr_port.name, profile), ())
        return any(_in_addresses(rest[0], address) and _in_ports(rest[1:], packet) for rest in ported)


def _ranges_by_profile(elements: Elements) -> Mapping[tuple[str, Atom], list[ElementKey]]:
    found: dict[tuple[str, Atom], list[ElementKey]] = defaultdict(list)
    for slot in elements:
        if any(isinstance(atom, Range) for atom in slot.key):
            found[slot.set, slot.key[0]].append(slot.key[1:])
    return found


def _in_ports(rest: Sequence[Atom], packet: Packet) -> bool:
    protocol, ports = rest
    assert isinstance(ports, Range)
    return protocol == packet.protocol.lower() and int(ports.low) <= packet.port <= int(ports.high)


def _in_addresses(atom: Atom, address: str) -> bool:
    assert isinstance(atom, Range)
    return int(ip_address(atom.low)) <= int(ip_address(address)) <= int(ip_address(atom.high))
