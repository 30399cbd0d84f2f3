"""Addresses for containers. Pure.

Promise: taking and giving back cost the same in a /30 and in a /64, full or empty; two owners never hold one address; a freed
address is handed out again only when every other free one, or 16,384 of them, have been (quarantine by order: what still knows
the old owner has the longest possible time to forget it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_cni.ranges import Range, RangeSpec, ranges_of
from fairway_core.errors import ConflictError, ExhaustedError, UserError
from fairway_core.model import family_of


def mac_of(ip: str) -> str:
    """A locally administered unicast MAC that follows from the address, so that a reused address never meets a stale cache.

    IPv4: 0a:58 and the four bytes, unique. IPv6: 0e and 40 bits of SHA-256 over the address.
    """
    packed = ip_address(ip).packed
    raw = b"\x0a\x58" + packed if len(packed) == 4 else b"\x0e" + hashlib.sha256(packed).digest()[:5]
    return raw.hex(":")


@dataclass(frozen=True, slots=True)
class Use:
    """One range and who holds what of it."""

    range: str
    size: int
    holders: Mapping[str, str]
    """Owner by address, in the order of taking."""


class AddressPool:
    """Addresses out of the node's pod CIDRs, or out of the ranges a network names: one per family for each owner.

    Several ranges of a family are used in order. A network's ranges may overlap the pod CIDRs and each other: an address that is
    in several is held in all of them. Raises ValueError at construction for a CIDR that is none.
    """

    def __init__(self, cidrs: Sequence[str]) -> None:
        self._own = ranges_of(cidrs)
        self._ranges = {spec: Range(spec) for spec in self._own}
        self._outside: dict[str, str] = {}
        """Addresses held at the start that were in no range known then; a network's ranges become known when it is used."""

    @property
    def families(self) -> tuple[int, ...]:
        """The families an allocation gets an address of."""
        return _families(self._own)

    @property
    def exhausted(self) -> str:
        """`shortage` of the pod CIDRs."""
        return self.shortage()

    def shortage(self, within: Sequence[RangeSpec] = ()) -> str:
        """What has nothing left, in words; empty while an allocation from the pod CIDRs, or `within`, can succeed."""
        specs = tuple(within) or self._own
        self._learn(specs)
        for version in _families(specs):
            if all(part.full for part in self._of(specs, version)):
                return self._use(specs, version)
        return "" if specs else "no podCIDRs are configured"

    def counts(self) -> dict[str, tuple[int, int]]:
        """(used, size) by CIDR, for metrics."""
        return {str(spec): (len(part.used), part.size) for spec, part in self._ranges.items()}

    def uses(self) -> list[Use]:
        """Every range with its holders."""
        return [
            Use(str(spec), part.size, {part.text(offset): owner for offset, owner in part.used.items()})
            for spec, part in self._ranges.items()
        ]

    def adopt(self, held: Iterable[tuple[str, str]]) -> None:
        """Take over (address, owner) pairs found in the store at start; addresses outside the pool are only remembered.

        The walk goes on behind the highest of them, so that what was freed before the restart is not reused first.
        """
        pairs = list(held)
        for part in self._ranges.values():
            _adopt(part, pairs)
        self._outside.update((ip, owner) for ip, owner in pairs if not any(True for _ in self._find(ip)))

    def allocate(self, owner: str, requested: Sequence[str] = (), within: Sequence[RangeSpec] = ()) -> tuple[str, ...]:
        """One address per family, IPv4 first; those of `requested` if given. All or none. `within`: not the pod CIDRs but these.

        Raises ExhaustedError naming the pool and its use, UserError for a request outside the pool or twice the same family,
        ConflictError for one that another owner holds.
        """
        specs = tuple(within) or self._own
        self._learn(specs)
        families = _families(specs)
        wanted = {family_of(ip): ip for ip in requested}
        if len(wanted) != len(requested):
            raise UserError(f"more than one address of a family requested: {', '.join(requested)}")
        foreign = sorted(wanted.keys() - set(families))
        if foreign:
            raise UserError(f"address {wanted[foreign[0]]} requested, but there is no pool of IPv{foreign[0]}")
        chosen = [self._requested(specs, wanted[v], owner) if v in wanted else self._next(specs, v) for v in families]
        if not chosen:
            raise ExhaustedError(self.exhausted)
        for ip in chosen:
            self._take(ip, owner)
        return tuple(chosen)

    def hold(self, ip: str, owner: str) -> bool:
        """Take one particular address if it is free; False if it is held. One in no known range is remembered until one is."""
        if self.owner_of(ip):
            return False
        if not any(True for _ in self._find(ip)):
            self._outside[ip] = owner
        self._take(ip, owner)
        return True

    def release(self, ips: Iterable[str], owner: str) -> None:
        """Give back what `owner` holds of `ips`; anything else is left alone, so that releasing twice is harmless."""
        for ip in ips:
            for part, offset in self._find(ip):
                if part.used.get(offset) == owner:
                    part.free(offset)
            if self._outside.get(ip) == owner:
                del self._outside[ip]

    def owner_of(self, ip: str) -> str:
        """Who holds the address; empty if nobody does."""
        held = (owner for part, offset in self._find(ip) if (owner := part.used.get(offset, "")))
        return next(held, "") or self._outside.get(ip, "")

    def _learn(self, specs: Iterable[RangeSpec]) -> None:
        for spec in specs:
            if spec in self._ranges:
                continue
            part = Range(spec)
            known = [(other.text(offset), owner) for other in self._ranges.values() for offset, owner in other.used.items()]
            _adopt(part, [*known, *self._outside.items()])
            self._ranges[spec] = part

    def _of(self, specs: Iterable[RangeSpec], version: int) -> list[Range]:
        return [self._ranges[spec] for spec in specs if spec.network.version == version]

    def _find(self, ip: str) -> Iterator[tuple[Range, int]]:
        for part in self._ranges.values():
            offset = part.offset_of(ip)
            if offset is not None:
                yield part, offset

    def _take(self, ip: str, owner: str) -> None:
        for part, offset in self._find(ip):
            part.take(offset, owner)

    def _requested(self, specs: Sequence[RangeSpec], ip: str, owner: str) -> str:
        parts = self._of(specs, family_of(ip))
        if not any(part.offset_of(ip) is not None for part in parts):
            names = ", ".join(str(part.network) for part in parts)
            raise UserError(f"requested address {ip} is not a usable one of {names}")
        holder = self.owner_of(ip) or owner
        if holder != owner:
            raise ConflictError(f"requested address {ip} is in use by {holder}")
        return ip

    def _next(self, specs: Sequence[RangeSpec], version: int) -> str:
        for part in self._of(specs, version):
            offset = part.next_free()
            if offset is not None:
                return part.text(offset)
        raise ExhaustedError(self._use(specs, version))

    def _use(self, specs: Sequence[RangeSpec], version: int) -> str:
        uses = (f"{part.network}: {len(part.used)} of {part.size} in use" for part in self._of(specs, version))
        return f"no free IPv{version} address; {', '.join(uses)}"


def _families(specs: Sequence[RangeSpec]) -> tuple[int, ...]:
    return tuple(version for version in (4, 6) if any(spec.network.version == version for spec in specs))


def _adopt(part: Range, held: Iterable[tuple[str, str]]) -> None:
    highest = -1
    for ip, owner in held:
        offset = part.offset_of(ip)
        if offset is not None:
            part.take(offset, owner)
            highest = max(highest, offset)
    if highest >= 0:
        part.begin_after(highest)
