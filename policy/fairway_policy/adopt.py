"""Read numbers back from what the kernel holds, so that a restarted agent finds nothing to change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from ipaddress import ip_address

from fairway_core.model.meta import Family
from fairway_kernel.nft.objects import Elements, Range
from fairway_policy.cidr import Atom, WorldPermit
from fairway_policy.layout import FAMILY_SETS, PROFILE
from fairway_policy.permit import EVERYTHING, PortRange, permit
from fairway_policy.profile import Content

Place = tuple[Family, int, int]


def learnt_numbers(actual: Elements) -> dict[str, int]:
    """Identity number by address. The destination map wins where the two maps differ."""
    names = [sets.source.name for sets in FAMILY_SETS.values()] + [sets.destination.name for sets in FAMILY_SETS.values()]
    found: dict[str, int] = {}
    for name in names:
        for slot, value in actual.items():
            if slot.set == name and value and isinstance(value[0], int):
                found[str(slot.key[0])] = value[0]
    return found


def learnt_profiles(actual: Elements) -> dict[int, Content]:
    """Profile contents by id, put together again from their elements."""
    ports: dict[int, set[PortRange]] = defaultdict(set)
    places: dict[int, dict[Place, set[PortRange]]] = defaultdict(lambda: defaultdict(set))
    families = {sets.cidr_port.name: family for family, sets in FAMILY_SETS.items()}
    families |= {sets.cidr.name: family for family, sets in FAMILY_SETS.items()}
    for slot in actual:
        if slot.set == PROFILE.name:
            number, *rest = slot.key
            ports[_number(number)].add(_ports(rest))
        elif slot.set in families:
            number, addresses, *rest = slot.key
            ranges = places[_number(number)][_place(families[slot.set], addresses)]
            if rest:
                ranges.add(_ports(rest))
    contents: dict[int, Content] = {number: permit(ranges) for number, ranges in ports.items()}
    return contents | {number: _world(atoms) for number, atoms in places.items()}


def _world(atoms: dict[Place, set[PortRange]]) -> WorldPermit:
    return WorldPermit(
        tuple(
            Atom(family, low, high, permit(ranges) if ranges else EVERYTHING)
            for (family, low, high), ranges in sorted(atoms.items(), key=lambda item: item[0])
        )
    )


def _number(atom: object) -> int:
    if not isinstance(atom, int):
        raise TypeError(f"a profile id is a number, not {atom!r}")
    return atom


def _ports(atoms: Sequence[object]) -> PortRange:
    protocol, ports = atoms
    if not isinstance(ports, Range):
        raise TypeError(f"ports are a range, not {ports!r}")
    return str(protocol).upper(), int(ports.low), int(ports.high)


def _place(family: Family, addresses: object) -> Place:
    if not isinstance(addresses, Range):
        raise TypeError(f"addresses are a range, not {addresses!r}")
    return family, int(ip_address(addresses.low)), int(ip_address(addresses.high))
