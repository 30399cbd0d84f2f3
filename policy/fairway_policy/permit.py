"""What one side may use of the other: an algebra of protocols and ports. Pure values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairway_core.model import PodPort, PolicyPort

LAST_PORT = 65535
PortRange = tuple[str, int, int]
"""(protocol in upper case, lowest port, highest port), both ends included."""


@dataclass(frozen=True, slots=True)
class Permit:
    """A set of (protocol, port). `everything` includes protocols without ports, such as ICMP.

    Promise: `ranges` is sorted, disjoint and never adjacent, and empty when `everything` holds; so equal sets are equal values.
    Build with `permit` or `|`, not by hand.
    """

    everything: bool = False
    ranges: tuple[PortRange, ...] = ()

    def __bool__(self) -> bool:
        return self.everything or bool(self.ranges)

    def __or__(self, other: Permit) -> Permit:
        return union((self, other))

    def covers(self, other: Permit) -> bool:
        """Whether everything in `other` is also in this one."""
        return self | other == self


NOTHING = Permit()
EVERYTHING = Permit(everything=True)


def permit(ranges: Iterable[PortRange]) -> Permit:
    """The set of all `ranges`, which may overlap and come in any order."""
    merged: list[PortRange] = []
    for protocol, low, high in sorted(ranges):
        if merged and merged[-1][0] == protocol and low <= merged[-1][2] + 1:
            merged[-1] = (protocol, merged[-1][1], max(high, merged[-1][2]))
        else:
            merged.append((protocol, low, high))
    return Permit(False, tuple(merged))


def union(permits: Iterable[Permit]) -> Permit:
    """Everything that is in any of `permits`."""
    ranges: set[PortRange] = set()
    for item in permits:
        if item.everything:
            return EVERYTHING
        ranges.update(item.ranges)
    return permit(ranges)


def numeric(ports: tuple[PolicyPort, ...]) -> Permit:
    """The ports of one rule that do not depend on the destination pod. No ports at all: everything.

    Source: NetworkPolicy v1, NetworkPolicyPort (protocol alone: all its ports; endPort closes a numeric range).
    """
    if not ports:
        return EVERYTHING
    return permit(_range(port) for port in ports if not isinstance(port.port, str))


def _range(port: PolicyPort) -> PortRange:
    if not isinstance(port.port, int):
        return port.protocol, 0, LAST_PORT
    return port.protocol, port.port, port.port if port.end is None else port.end


def named(ports: tuple[PolicyPort, ...], container_ports: Iterable[PodPort]) -> Permit:
    """The ports of one rule that are written as names, resolved on the destination pod's `container_ports`."""
    wanted = {(port.port, port.protocol) for port in ports if isinstance(port.port, str)}
    return permit((p.protocol, p.port, p.port) for p in container_ports if (p.name, p.protocol) in wanted)
