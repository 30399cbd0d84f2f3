"""One range of addresses: its bounds and holes, and a walk that finds the next free one. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

WAITING = 16384
"""Freed addresses kept waiting at most: a walk through a /64 never ends, and memory must."""
Network = IPv4Network | IPv6Network
Hole = tuple[int, int]
"""First and last address that is left out, as numbers."""


@dataclass(frozen=True, slots=True)
class RangeSpec:
    """The addresses `low` to `high` (as numbers) of `network` without `holes`, which are disjoint and in order."""

    network: Network
    low: int
    high: int
    holes: tuple[Hole, ...] = ()

    @classmethod
    def make(cls, subnet: str, start: str = "", end: str = "", exclude: Iterable[str] = ()) -> RangeSpec:
        """From text. Raises ValueError for what is no address, outside the subnet, or leaves nothing.

        Without bounds: the first address names the network (RFC 4291 2.6.1: the subnet router), the second is where people
        expect a gateway, the last of IPv4 is the broadcast address. The smallest networks have no room for such customs.
        """
        network = ip_network(subnet, strict=False)
        small = network.num_addresses <= 2
        low = int(network[0]) + (0 if small else 2)
        high = int(network[-1]) - (1 if network.version == 4 and not small else 0)
        low, high = _bound(network, start, low), _bound(network, end, high)
        holes = _merge((hole for text in exclude if (hole := _hole(text, network)) is not None), low, high)
        if high - low + 1 - sum(last - first + 1 for first, last in holes) <= 0:
            raise ValueError(f"{subnet}: no address is left between {start or 'its start'} and {end or 'its end'}")
        return cls(network, low, high, holes)

    def __str__(self) -> str:
        """The network, and the bounds where they are not the usual ones."""
        usual = RangeSpec.make(str(self.network))
        if (usual.low, usual.high) == (self.low, self.high):
            return str(self.network)
        base = int(self.network[0])
        return f"{self.network} {self.network[0] + (self.low - base)}-{self.network[0] + (self.high - base)}"


def _bound(network: Network, text: str, default: int) -> int:
    if not text:
        return default
    address = ip_address(text)
    if address not in network:
        raise ValueError(f"{text} is not in {network}")
    return int(address)


def _hole(text: str, network: Network) -> Hole | None:
    found = ip_network(text, strict=False)
    if found.version != network.version:
        return None
    return int(found[0]), int(found[-1])


def _merge(holes: Iterable[Hole], low: int, high: int) -> tuple[Hole, ...]:
    merged: list[Hole] = []
    for first, last in sorted(holes):
        first, last = max(first, low), min(last, high)
        if first > last:
            continue
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


class Range:
    """The usable addresses of one spec, as offsets from its first address.

    `_fresh` counts the steps of a walk over all offsets that starts at `_start` and wraps; what was freed waits in `_freed` in
    the order of freeing and is taken when the walk is over, or when too many wait. Each offset is stepped over once, so a step
    costs O(1) amortised; a hole is stepped over as a whole.
    """

    def __init__(self, spec: RangeSpec) -> None:
        self.spec = spec
        self._span = spec.high - spec.low + 1
        self._holes = [(first - spec.low, last - spec.low) for first, last in spec.holes]
        self._start = 0
        self._fresh = 0
        self.used: dict[int, str] = {}
        self._freed: OrderedDict[int, None] = OrderedDict()

    @property
    def network(self) -> Network:
        return self.spec.network

    @property
    def size(self) -> int:
        """How many addresses can be given out."""
        return self._span - sum(last - first + 1 for first, last in self._holes)

    @property
    def full(self) -> bool:
        return len(self.used) >= self.size

    def offset_of(self, ip: str) -> int | None:
        """The offset of an address that may be given out; None for any other."""
        address = ip_address(ip)
        if address.version != self.network.version:
            return None
        offset = int(address) - self.spec.low
        return offset if 0 <= offset < self._span and self._hole_at(offset) is None else None

    def text(self, offset: int) -> str:
        return str(self.network[0] + (self.spec.low - int(self.network[0]) + offset))

    def next_free(self) -> int | None:
        """The free offset whose turn it is."""
        if len(self._freed) >= WAITING:
            return next(iter(self._freed))
        while self._fresh < self._span:
            offset = (self._start + self._fresh) % self._span
            hole = self._hole_at(offset)
            if hole is not None:
                self._fresh += hole[1] - offset + 1
            elif offset not in self.used and offset not in self._freed:
                return offset
            else:
                self._fresh += 1
        return next(iter(self._freed), None)

    def take(self, offset: int, owner: str) -> None:
        self.used[offset] = owner
        self._freed.pop(offset, None)

    def free(self, offset: int) -> None:
        if self.used.pop(offset, None) is not None:
            self._freed[offset] = None

    def begin_after(self, offset: int) -> None:
        """Start the walk behind `offset`; for a fresh range only."""
        self._start = (offset + 1) % self._span

    def _hole_at(self, offset: int) -> Hole | None:
        place = bisect_right(self._holes, (offset, self._span)) - 1
        return self._holes[place] if place >= 0 and self._holes[place][1] >= offset else None


def ranges_of(cidrs: Sequence[str]) -> tuple[RangeSpec, ...]:
    """Whole CIDRs as ranges. Raises ValueError for a text that is no CIDR."""
    return tuple(map(RangeSpec.make, cidrs))
