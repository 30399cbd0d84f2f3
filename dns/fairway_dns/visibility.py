"""What decides who sees what, as the compiler of views needs it. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

from fairway_core.keys import Key
from fairway_core.model import EndpointSlice, Service, ServicePort, family_of
from fairway_core.model.meta import FAMILIES

ALL, TENANT, POLICY = "all", "tenant", "policy"
NOBODY = 0
"""The identity of what is no pod."""


class Changes(Protocol):
    """What has to be asked about again."""

    @property
    def pods(self) -> Collection[Key]:
        """Pods whose addresses have other identities."""

    @property
    def egress(self) -> Collection[int]:
        """Identities that may send something else than before."""

    @property
    def ingress(self) -> Collection[int]:
        """Identities that may receive something else than before."""

    @property
    def pairs(self) -> Collection[tuple[int, int]]:
        """(source, destination) between which something else is allowed."""


class Freedom(Protocol):
    """How far an identity's rights go that do not depend on the other side."""

    @property
    def everything(self) -> bool:
        """It may send everything to everybody."""

    @property
    def something(self) -> bool:
        """It may send something to everybody."""


class Reach(Protocol):
    """Who may connect to whom, by the rules in force. The agent hands in policy's."""

    def numbers(self, pod: Key) -> Mapping[str, int]:
        """The identity of each address of a pod."""

    def allows(self, source: int, destination: int, address: str, protocol: str, port: int) -> bool:
        """Whether a connection may begin. `destination` NOBODY: to `address`, which is no pod's. `protocol` empty: any at all."""

    def freedom(self, identity: int) -> Freedom:
        """What an identity may send to whoever lets it."""

    def destinations(self, identity: int) -> Collection[int]:
        """Identities to which something else is allowed from this one than what each of the two says to everybody."""

    def sources(self, identity: int) -> Collection[int]:
        """The inverse of `destinations`."""

    def take_changes(self) -> Changes:
        """What changed since the last call."""


@dataclass(frozen=True, slots=True)
class NoChanges:
    """Nothing."""

    pods: frozenset[Key] = frozenset()
    egress: frozenset[int] = frozenset()
    ingress: frozenset[int] = frozenset()
    pairs: frozenset[tuple[int, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Free:
    """A `Freedom`."""

    everything: bool = True
    something: bool = True


class Unjudged:
    """A `Reach` where policy has no say: everybody reaches everything."""

    def numbers(self, pod: Key) -> Mapping[str, int]:
        return {}

    def allows(self, source: int, destination: int, address: str, protocol: str, port: int) -> bool:
        return True

    def freedom(self, identity: int) -> Free:
        return Free()

    def destinations(self, identity: int) -> Collection[int]:
        return ()

    def sources(self, identity: int) -> Collection[int]:
        return ()

    def take_changes(self) -> NoChanges:
        return NoChanges()


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Something a service leads to: an identity, or an `address` of no pod. `protocol` is empty for a service without ports."""

    identity: int
    address: str
    family: int
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Source:
    """One who asks: the identity of each of a pod's addresses by family, both families; NOBODY for what is no pod."""

    identities: tuple[tuple[int, int], ...]

    def reaches(self, targets: Iterable[Target], reach: Reach) -> bool:
        """Whether any of the targets may be connected to."""
        return any(
            reach.allows(identity, target.identity, target.address, target.protocol, target.port)
            for target in targets
            for family, identity in self.identities
            if family == target.family
        )


ANY_SOURCE = Source(((4, NOBODY), (6, NOBODY)))


def endpoints(service: Service, slices: Iterable[EndpointSlice]) -> Iterator[tuple[str, str, int]]:
    """(address, protocol, port) of everything a service leads to, ready or not: readiness is no matter of rights.

    One that has no ports leads to its endpoints as such: protocol empty.
    """
    for item in slices:
        ports = [found for port in service.ports if (found := _port(port, item)) is not None] if service.ports else [("", 0)]
        for endpoint in item.endpoints:
            for protocol, number in ports:
                yield endpoint.addresses[0], protocol, number


def _port(port: ServicePort, item: EndpointSlice) -> tuple[str, int] | None:
    for found in item.ports:
        if found.name == port.name and found.protocol == port.protocol:
            fixed = port.target if isinstance(port.target, int) and port.target else port.port
            return port.protocol, found.port or fixed
    return None


def group_name(tenant: str, targets: frozenset[Target]) -> str:
    """A name for all services of a tenant that lead to the same; empty if they lead nowhere."""
    if not targets:
        return ""
    return blake2b(repr((tenant, sorted(targets))).encode(), digest_size=9).hexdigest()


def source_of(addresses: Mapping[str, int]) -> Source:
    """Addresses with their identities as a source. One without an address of a family is judged there by the address it has."""
    found = {(family_of(address), number) for address, number in addresses.items()}
    for family in FAMILIES:
        if not any(item[0] == family for item in found):
            found |= {(family, number) for _family, number in found}
    return Source(tuple(sorted(found))) if addresses else ANY_SOURCE
