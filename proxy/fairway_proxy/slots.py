"""How the endpoints of one service port share its slots.

A slot is one index of nftables' `numgen random mod k`, so a slot is 1/k of the new connections. Up to 64 endpoints k is their
number and every share is the same. Above, k is a constant power of two and each endpoint owns many slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from fairway_core.endpoints import Backend
from fairway_proxy.marks import REJECT

EXACT = 64
"""Up to so many endpoints there are as many slots as endpoints."""

WIDE = (1024, 2048)
"""Slot counts above. The first that gives every endpoint at least 8 slots is taken, else the last."""

SLOTS_PER_ENDPOINT = 8

Target = tuple[str, int]
"""Address and port of an endpoint."""


def targets_of(backends: Sequence[Backend]) -> list[Target]:
    """Address and port of each backend, each pair once, sorted."""
    return sorted({(backend.ip, backend.port) for backend in backends})


def slot_count(endpoints: int) -> int:
    """The class for a number of endpoints; with none it is REJECT."""
    if endpoints <= EXACT:
        return endpoints or REJECT
    return next((k for k in WIDE if k >= endpoints * SLOTS_PER_ENDPOINT), WIDE[-1])


def assign_slots(targets: Sequence[Target]) -> list[Target]:
    """The target of every slot, `slot_count(len(targets))` of them. `targets` is sorted and free of duplicates.

    Promise: depends on `targets` alone; the shares of two endpoints differ by at most one slot; above 64 endpoints, one more or
    one less endpoint moves about its own share of slots (Maglev, Eisenbud et al., NSDI 2016, section 3.4). Of more than 2,048
    endpoints the first 2,048 get a slot.
    """
    count = slot_count(len(targets))
    return list(targets) if count == len(targets) or not targets else _take_turns(targets, count)


def _take_turns(targets: Sequence[Target], count: int) -> list[Target]:
    table: list[Target | None] = [None] * count
    walks = [_walk(target, count) for target in targets]
    for turn in range(count):
        owner = turn % len(targets)
        position, step = walks[owner]
        while table[position] is not None:
            position = (position + step) % count
        table[position] = targets[owner]
        walks[owner] = ((position + step) % count, step)
    return [target for target in table if target is not None]


def _walk(target: Target, count: int) -> tuple[int, int]:
    """Start and step of an endpoint's own order of slots; an odd step visits all slots of a power of two."""
    seed = f"{target[0]} {target[1]}"
    return crc32(seed.encode()) % count, crc32(seed.encode(), 0x5EED) % count | 1


def number_targets(targets: Sequence[Target]) -> dict[Target, int]:
    """A number per endpoint for affinity entries: 1 .. 2**31, distinct within the service, the same for the same endpoint.

    Two endpoints whose checksums collide get neighbouring numbers by their order, so they may swap when one of them goes.
    """
    numbers: dict[Target, int] = {}
    taken: set[int] = set()
    for target in targets:
        number = crc32(f"{target[0]} {target[1]}".encode()) >> 1 or 1
        while number in taken:
            number += 1
        taken.add(number)
        numbers[target] = number
    return numbers
