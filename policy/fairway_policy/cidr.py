"""Address ranges: which blocks an address lies in, and permits that differ along the address line, cut into disjoint atoms.

Overlapping elements are refused by the kernel (EEXIST), so nothing here ever yields an overlap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise

from fairway_core.model import IpBlock
from fairway_core.model.meta import Family, family_of
from fairway_policy.permit import NOTHING, Permit, union

WIDTH: dict[Family, int] = {4: 32, 6: 128}
Span = tuple[int, int]
"""First and last address of a block, as integers."""


def span_of(cidr: str) -> Span:
    """The first and last address of a CIDR. Raises ValueError for text that is none."""
    network = ip_network(cidr)
    return int(network.network_address), int(network.broadcast_address)


def address_text(family: Family, number: int) -> str:
    """The canonical text of an address given as an integer."""
    return str(IPv4Address(number) if family == 4 else IPv6Address(number))


class BlockTable:
    """The CIDRs in use, counted. Finding the blocks around an address costs one look-up per distinct prefix length."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[Family, int], dict[int, str]] = {}
        self._uses: Counter[str] = Counter()

    def add(self, cidr: str) -> bool:
        """Count one more use; True if the block is new."""
        self._uses[cidr] += 1
        if self._uses[cidr] > 1:
            return False
        network = ip_network(cidr)
        self._blocks.setdefault((family_of(cidr), network.prefixlen), {})[int(network.network_address)] = cidr
        return True

    def discard(self, cidr: str) -> bool:
        """Count one use less; True if that was the last."""
        self._uses[cidr] -= 1
        if self._uses[cidr]:
            return False
        del self._uses[cidr]
        network = ip_network(cidr)
        level = family_of(cidr), network.prefixlen
        del self._blocks[level][int(network.network_address)]
        if not self._blocks[level]:
            del self._blocks[level]
        return True

    def around(self, address: str) -> tuple[str, ...]:
        """The blocks in use that contain `address`, sorted."""
        if not self._blocks:
            return ()
        number, family = int(ip_address(address)), family_of(address)
        width = WIDTH[family]
        found = []
        for (level_family, length), level in self._blocks.items():
            if level_family == family:
                shift = width - length
                cidr = level.get(number >> shift << shift)
                if cidr is not None:
                    found.append(cidr)
        return tuple(sorted(found))


@dataclass(frozen=True, slots=True, order=True)
class Atom:
    """A range of addresses, ends included as integers, all of which get the same permit."""

    family: Family
    low: int
    high: int
    permit: Permit


@dataclass(frozen=True, slots=True)
class WorldPermit:
    """What addresses outside the pod network may use, by address. Atoms are sorted, disjoint, merged and never empty."""

    atoms: tuple[Atom, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.atoms)

    def at(self, address: str) -> Permit:
        """The permit of one address. Takes time in the number of atoms."""
        family, number = family_of(address), int(ip_address(address))
        return next((a.permit for a in self.atoms if a.family == family and a.low <= number <= a.high), NOTHING)

    def uniform(self) -> Permit | None:
        """The one permit that all addresses of both families have; None if they differ."""
        whole = {(atom.family, atom.low, atom.high) for atom in self.atoms}
        permits = {atom.permit for atom in self.atoms}
        if whole == {(4, 0, (1 << 32) - 1), (6, 0, (1 << 128) - 1)} and len(permits) == 1:
            return permits.pop()
        return None if self.atoms else NOTHING

    def covers(self, other: WorldPermit) -> bool:
        """Whether every address may use at least what it may use in `other`."""
        spans = [(a.family, (a.low, a.high), a.permit) for a in (*self.atoms, *other.atoms)]
        return WorldPermit(_cut_all(spans)) == self


def world_permit(base: Permit, blocks: Iterable[tuple[IpBlock, Permit]]) -> WorldPermit:
    """`base` for every address of both families, and in addition each block's permit in the block less its exceptions.

    Promise: the result depends on the set of inputs only, not on their order. Raises ValueError for text that is no CIDR.
    """
    spans: list[tuple[Family, Span, Permit]] = []
    if base:
        spans += [(family, (0, (1 << width) - 1), base) for family, width in WIDTH.items()]
    for block, allowed in blocks:
        spans += [(family_of(block.cidr), span, allowed) for span in _less(block)]
    return WorldPermit(_cut_all(spans))


def _less(block: IpBlock) -> Iterator[Span]:
    """The parts of a block that its exceptions leave over."""
    low, high = span_of(block.cidr)
    holes = (span_of(cidr) for cidr in block.excepts if family_of(cidr) == family_of(block.cidr))
    for hole_low, hole_high in sorted(holes):
        if hole_low > low:
            yield low, min(hole_low - 1, high)
        low = max(low, hole_high + 1)
        if low > high:
            return
    yield low, high


def _cut_all(spans: Sequence[tuple[Family, Span, Permit]]) -> tuple[Atom, ...]:
    atoms: list[Atom] = []
    for family in WIDTH:
        mine = [(span, allowed) for item, span, allowed in spans if item == family and allowed]
        atoms += _merge(_cut(mine, partial(Atom, family)))
    return tuple(atoms)


def _cut(spans: list[tuple[Span, Permit]], make: Callable[[int, int, Permit], Atom]) -> Iterator[Atom]:
    """Sweep over the address line: between two neighbouring edges the set of spans in force does not change."""
    edges: dict[int, list[tuple[Permit, int]]] = {}
    for (low, high), allowed in spans:
        edges.setdefault(low, []).append((allowed, 1))
        edges.setdefault(high + 1, []).append((allowed, -1))
    force: Counter[Permit] = Counter()
    for start, end in pairwise(sorted(edges)):
        for allowed, step in edges[start]:
            force[allowed] += step
        force = +force
        if force:
            yield make(start, end - 1, union(force))


def _merge(atoms: Iterable[Atom]) -> list[Atom]:
    merged: list[Atom] = []
    for atom in atoms:
        last = merged[-1] if merged else None
        if last is not None and last.high + 1 == atom.low and last.permit == atom.permit:
            merged[-1] = Atom(atom.family, last.low, atom.high, atom.permit)
        else:
            merged.append(atom)
    return merged
