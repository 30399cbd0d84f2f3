"""Addresses for containers. Pure.

Promise: taking and giving back cost the same in a /30 and in a /64, full or empty; two owners never hold one address; a freed
address is handed out again only when every other free one has been (quarantine by order: what still knows the old owner
has the longest possible time to forget it).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from fairway_core.errors import ConflictError, ExhaustedError, UserError
from fairway_core.model import family_of

Network = IPv4Network | IPv6Network


def mac_of(ip: str) -> str:
    """A locally administered unicast MAC that follows from the address, so that a reused address never meets a stale cache.

    IPv4: 0a:58 and the four bytes, unique. IPv6: 0e and 40 bits of SHA-256 over the address.
    """
    packed = ip_address(ip).packed
    raw = b"\x0a\x58" + packed if len(packed) == 4 else b"\x0e" + hashlib.sha256(packed).digest()[:5]
    return raw.hex(":")


class _Range:
    """The usable addresses of one CIDR, as offsets from its first address.

    `_fresh` counts the steps of a walk over all offsets that starts at `_start` and wraps; what was freed waits in `_freed` in
    the order of freeing and is taken when the walk is over. Each offset is stepped over once, so a step costs O(1) amortised.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        size = network.num_addresses
        # The first address names the network (RFC 4291 2.6.1: the subnet router), the second is where people expect a
        # gateway, the last of IPv4 is the broadcast address. The smallest networks have no room for such customs.
        small = size <= 2
        self._low = 0 if small else 2
        self._size = size if small else size - 2 - (1 if network.version == 4 else 0)
        self._start = 0
        self._fresh = 0
        self.used: dict[int, str] = {}
        self._freed: OrderedDict[int, None] = OrderedDict()

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return self._size

    @property
    def full(self) -> bool:
        return len(self.used) >= self._size

    def offset_of(self, ip: str) -> int | None:
        """The offset of an address that may be given out; None for any other."""
        address = ip_address(ip)
        if address not in self.network:
            return None
        offset = int(address) - int(self.network.network_address) - self._low
        return offset if 0 <= offset < self._size else None

    def text(self, offset: int) -> str:
        return str(self.network.network_address + self._low + offset)

    def next_free(self) -> int | None:
        """The free offset whose turn it is."""
        while self._fresh < self._size:
            offset = (self._start + self._fresh) % self._size
            if offset not in self.used and offset not in self._freed:
                return offset
            self._fresh += 1
        return next(iter(self._freed), None)

    def take(self, offset: int, owner: str) -> None:
        self.used[offset] = owner
        self._freed.pop(offset, None)

    def free(self, offset: int) -> None:
        if self.used.pop(offset, None) is not None:
            self._freed[offset] = None

    def begin_after(self, offset: int) -> None:
        """Start the walk behind `offset`; for a fresh pool only."""
        self._start = (offset + 1) % self._size


class AddressPool:
    """Addresses out of the node's pod CIDRs: one per family for each owner.

    Several CIDRs of a family are used in order. Raises ValueError at construction for a CIDR that is none.
    """

    def __init__(self, cidrs: Sequence[str]) -> None:
        networks = [ip_network(cidr, strict=False) for cidr in cidrs]
        self._ranges = {version: [_Range(net) for net in networks if net.version == version] for version in (4, 6)}

    @property
    def families(self) -> tuple[int, ...]:
        """The families an allocation gets an address of."""
        return tuple(version for version, ranges in self._ranges.items() if ranges)

    @property
    def exhausted(self) -> str:
        """What has nothing left, in words; empty while an allocation can succeed."""
        for version in self.families:
            if all(part.full for part in self._ranges[version]):
                return self._use(version)
        return "" if self.families else "no podCIDRs are configured"

    def counts(self) -> dict[str, tuple[int, int]]:
        """(used, size) by CIDR, for metrics."""
        return {str(part.network): (len(part.used), part.size) for ranges in self._ranges.values() for part in ranges}

    def adopt(self, held: Iterable[tuple[str, str]]) -> None:
        """Take over (address, owner) pairs found in the store at start; addresses outside the pool are not its business.

        The walk goes on behind the highest of them, so that what was freed before the restart is not reused first.
        """
        highest: dict[_Range, int] = {}
        for ip, owner in held:
            found = self._find(ip)
            if found:
                part, offset = found
                part.take(offset, owner)
                highest[part] = max(highest.get(part, 0), offset)
        for part, offset in highest.items():
            part.begin_after(offset)

    def allocate(self, owner: str, requested: Sequence[str] = ()) -> tuple[str, ...]:
        """One address per family, IPv4 first; those of `requested` if given. All or none.

        Raises ExhaustedError naming the pool and its use, UserError for a request outside the pool or twice the same family,
        ConflictError for one that another owner holds.
        """
        wanted = {family_of(ip): ip for ip in requested}
        if len(wanted) != len(requested):
            raise UserError(f"more than one address of a family requested: {', '.join(requested)}")
        foreign = sorted(wanted.keys() - set(self.families))
        if foreign:
            raise UserError(f"address {wanted[foreign[0]]} requested, but there is no pool of IPv{foreign[0]}")
        chosen = [self._requested(wanted[v], owner) if v in wanted else self._next(v) for v in self.families]
        if not chosen:
            raise ExhaustedError(self.exhausted)
        for part, offset in chosen:
            part.take(offset, owner)
        return tuple(part.text(offset) for part, offset in chosen)

    def hold(self, ip: str, owner: str) -> bool:
        """Take one particular address if it is free; False if it is held. One outside the pool can always be had."""
        found = self._find(ip)
        if found and found[1] in found[0].used:
            return False
        if found:
            found[0].take(found[1], owner)
        return True

    def release(self, ips: Iterable[str], owner: str) -> None:
        """Give back what `owner` holds of `ips`; anything else is left alone, so that releasing twice is harmless."""
        for ip in ips:
            found = self._find(ip)
            if found and found[0].used.get(found[1]) == owner:
                found[0].free(found[1])

    def owner_of(self, ip: str) -> str:
        """Who holds the address; empty if nobody does."""
        found = self._find(ip)
        return found[0].used.get(found[1], "") if found else ""

    def _find(self, ip: str) -> tuple[_Range, int] | None:
        for part in self._ranges[family_of(ip)]:
            offset = part.offset_of(ip)
            if offset is not None:
                return part, offset
        return None

    def _requested(self, ip: str, owner: str) -> tuple[_Range, int]:
        found = self._find(ip)
        if not found:
            names = ", ".join(str(part.network) for part in self._ranges[family_of(ip)])
            raise UserError(f"requested address {ip} is not a usable one of {names}")
        holder = found[0].used.get(found[1], owner)
        if holder != owner:
            raise ConflictError(f"requested address {ip} is in use by {holder}")
        return found

    def _next(self, version: int) -> tuple[_Range, int]:
        for part in self._ranges[version]:
            offset = part.next_free()
            if offset is not None:
                return part, offset
        raise ExhaustedError(self._use(version))

    def _use(self, version: int) -> str:
        uses = (f"{part.network}: {len(part.used)} of {part.size} in use" for part in self._ranges[version])
        return f"no free IPv{version} address; {', '.join(uses)}"
