"""Numbers of service ports: small, stable for the life of the port, and taken over from the kernel after a restart."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from fairway_core.errors import ExhaustedError
from fairway_core.topology import Way
from fairway_kernel.nft.objects import Slot
from fairway_proxy.marks import MAX_ID


@dataclass(frozen=True, slots=True)
class PortKey:
    """One port of one service, by one way: each way has slots of its own, hence a number of its own."""

    namespace: str
    service: str
    protocol: str
    port: int
    way: Way = Way.ALL


class PortIds:
    """Gives out numbers 1 .. `limit`, the lowest free one first; a released number is used again.

    Promise: until `settle`, a number learnt from the kernel goes only to a port that has one of the frontends it was seen at.
    """

    def __init__(self, limit: int = MAX_ID) -> None:
        self._limit = limit
        self._ids: dict[PortKey, int] = {}
        self._of_service: dict[tuple[str, str], set[PortKey]] = {}
        self._used: set[int] = set()
        self._learnt: dict[Slot, int] = {}
        self._reserved: set[int] = set()
        self._released: list[int] = []
        self._cursor = 1

    def learn(self, frontends: Mapping[Slot, int]) -> None:
        """Reserve the numbers the kernel uses, by the frontend element that carries them. Others than 1 .. limit are ignored."""
        self._learnt = {slot: number for slot, number in frontends.items() if 0 < number <= self._limit}
        self._reserved = set(self._learnt.values())

    def assign(self, key: PortKey, frontends: Iterable[Slot]) -> int:
        """The number of a service port. Raises ExhaustedError when all are in use."""
        if key not in self._ids:
            number = self._known(frontends) or self._next_free()
            self._used.add(number)
            self._ids[key] = number
            self._of_service.setdefault((key.namespace, key.service), set()).add(key)
        return self._ids[key]

    def retain(self, namespace: str, service: str, keys: Collection[PortKey]) -> list[int]:
        """Release the numbers of all ports of a service but `keys`; returns them."""
        mine, released = self._of_service.get((namespace, service), set()), []
        for key in [key for key in mine if key not in keys]:
            mine.discard(key)
            number = self._ids.pop(key)
            self._used.discard(number)
            heapq.heappush(self._released, number)
            released.append(number)
        if not mine:
            self._of_service.pop((namespace, service), None)
        return released

    def settle(self) -> list[int]:
        """Every port has been seen: learnt numbers that nobody claimed become free; returns them."""
        unclaimed = sorted(self._reserved - self._used)
        for number in unclaimed:
            heapq.heappush(self._released, number)
        self._learnt, self._reserved = {}, set()
        return unclaimed

    def _known(self, frontends: Iterable[Slot]) -> int:
        seen = (self._learnt.get(slot, 0) for slot in frontends)
        return next((number for number in seen if number and number not in self._used), 0)

    def _next_free(self) -> int:
        while self._released:
            number = heapq.heappop(self._released)
            if self._is_free(number):
                return number
        while self._cursor <= self._limit:
            number = self._cursor
            self._cursor += 1
            if self._is_free(number):
                return number
        raise ExhaustedError(f"service port ids: all {self._limit} are in use")

    def _is_free(self, number: int) -> bool:
        return number not in self._used and number not in self._reserved
