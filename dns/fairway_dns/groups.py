"""What services lead to, and which of them lead to the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairway_core.keys import Key
from fairway_core.model import Service, family_of
from fairway_core.world import World
from fairway_dns.visibility import NOBODY, Reach, Target, endpoints, group_name


@dataclass(frozen=True, slots=True)
class Group:
    """Services of one tenant (empty: everybody's) that lead to the same."""

    name: str
    tenant: str
    targets: frozenset[Target]


@dataclass(frozen=True, slots=True)
class _Led:
    addresses: frozenset[str] = frozenset()
    group: str = ""


class GroupBook:
    """The group of every service, and services and groups by what they lead to."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._led: dict[Key, _Led] = {}
        self._by_address: dict[str, set[Key]] = {}
        self._by_identity: dict[int, set[str]] = {}
        self._members: dict[str, set[Key]] = {}
        self._groups: dict[str, Group] = {}
        self._born: set[str] = set()
        self._gone: set[str] = set()

    def group(self, service: Key) -> str:
        """The name of a service's group; empty if there is nothing to judge it by."""
        return self._led.get(service, _Led()).group

    def get(self, name: str) -> Group | None:
        return self._groups.get(name)

    def names(self) -> Iterable[str]:
        """All groups."""
        return self._groups.keys()

    def at(self, addresses: Iterable[str]) -> set[Key]:
        """The services that lead to any of the addresses."""
        return {key for address in addresses for key in self._by_address.get(address, ())}

    def of_identity(self, identity: int) -> Iterable[str]:
        """The groups that lead to an identity; NOBODY: to addresses of no pod."""
        return self._by_identity.get(identity, ())

    def members(self, group: str) -> Iterable[Key]:
        return self._members.get(group, ())

    def put(self, world: World, key: Key, service: Service | None, tenant: str, near: frozenset[str]) -> frozenset[str]:
        """Look at a service again; None forgets it. What leads to an address in `near` is nothing to judge: everybody reaches it.
        Returns the addresses it leads to now and did not, or the other way round.
        """
        old = self._led.pop(key, _Led())
        new = _Led()
        if service is not None:
            found = set(endpoints(service, world.slices_of(key.namespace, key.name)))
            targets = frozenset(self._target(world, *item) for item in found)
            open_ = any(target.identity == NOBODY and target.address in near for target in targets)
            name = "" if open_ else group_name(tenant, targets)
            new = self._led[key] = _Led(frozenset(address for address, _, _ in found), name)
            self._join(key, Group(name, tenant, targets))
        if old.group != new.group:
            self._leave(key, old.group)
        moved = old.addresses ^ new.addresses
        for address in moved:
            _toggle(self._by_address, address, key)
        return moved

    def take_changes(self) -> tuple[set[str], set[str]]:
        """The groups that are new since the last call, and those that are gone."""
        born, gone = self._born, self._gone
        self._born, self._gone = set(), set()
        return born & self._groups.keys(), gone - self._groups.keys()

    def _target(self, world: World, address: str, protocol: str, port: int) -> Target:
        pod = world.pod_of_ip(address)
        identity = self._reach.numbers(pod.meta.key("Pod")).get(address, NOBODY) if pod is not None else NOBODY
        return Target(identity, "" if identity else address, family_of(address), protocol, port)

    def _join(self, key: Key, group: Group) -> None:
        if not group.name:
            return
        if group.name not in self._groups:
            self._groups[group.name] = group
            self._born.add(group.name)
            self._members[group.name] = set()
            for identity in {target.identity for target in group.targets}:
                self._by_identity.setdefault(identity, set()).add(group.name)
        self._members[group.name].add(key)

    def _leave(self, key: Key, name: str) -> None:
        if not name:
            return
        self._members[name].discard(key)
        if not self._members[name]:
            del self._members[name]
            self._gone.add(name)
            for identity in {target.identity for target in self._groups.pop(name).targets}:
                self._by_identity[identity].discard(name)
                if not self._by_identity[identity]:
                    del self._by_identity[identity]


def _toggle(book: dict[str, set[Key]], address: str, key: Key) -> None:
    keys = book.setdefault(address, set())
    keys.symmetric_difference_update({key})
    if not keys:
        del book[address]


def scope_of(service: Key) -> str:
    """The scope of a service's records."""
    return f"{service.namespace}/{service.name}"
