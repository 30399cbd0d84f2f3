"""Whether a worker that is alive still does its work: it must answer the agent's pings, and take what comes to its sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from fairway_dns.config import Address

if TYPE_CHECKING:
    from fairway_dns.feed import WorkerInfo

READ = "read:"
"""The count of datagrams that a worker has read, by listening address."""
MOST_MISSES = 256
"""If nobody ever answers, the fault is hardly the worker's: each further one is given twice the time, up to this."""


class Pulse(Protocol):
    """Where signs of life of workers come from; the zone feed is one."""

    def ping(self, pid: int) -> None:
        """Ask the worker for a sign of life, if it is connected. Never waits."""

    def heard(self, pid: int) -> int:
        """How many frames the worker has sent over its present connection; 0 if there is none."""

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The connected workers, with what they have measured."""


@dataclass(frozen=True, slots=True)
class Patience:
    """A worker is asked every `interval` seconds and given up after `misses` questions in a row without any sign of life. Its
    addresses are knocked at every `pause` seconds; it is given up after `lost` times in a row that knocks remained without an
    answer while it read nothing.
    """

    interval: float = 0.5
    misses: int = 8
    pause: float = 2.0
    lost: int = 4

    def doubled(self) -> Patience:
        """Twice as much of it, up to a bound."""
        return replace(self, misses=min(self.misses * 2, MOST_MISSES), lost=min(self.lost * 2, MOST_MISSES))


async def silent(pulse: Pulse, pid: int, patience: Patience) -> bool:
    """Return once the worker is given up; whether it was ever heard of.

    Questions are counted, not seconds: if it is the agent that was stopped or starved, one interval of its own is lost, and what
    the worker sent meanwhile is read before the next one ends.
    """
    before = missed = 0
    met = False
    while missed < patience.misses:
        pulse.ping(pid)
        await asyncio.sleep(patience.interval)
        heard = pulse.heard(pid)
        missed = missed + 1 if heard in (0, before) else 0
        met = met or bool(heard)
        before = heard
    return met


Knock = Callable[[Address], Awaitable[int]]
"""Puts questions to an address; how many were not answered."""


async def deaf(pulse: Pulse, pid: int, addresses: Sequence[Address], knock: Knock, patience: Patience) -> bool:
    """Return once the worker is given up because it takes nothing from the socket of one of its addresses; whether it ever did.

    A worker that others share the port with gets only some of the knocks, and under a flood it may get none; but then it reads
    other things. So both must come together: lost knocks, and a count that stands still. One that is not connected is for
    `silent` to judge.
    """
    before: dict[Address, int | None] = {}
    missed = dict.fromkeys(addresses, 0)
    while all(count < patience.lost for count in missed.values()):
        await asyncio.sleep(patience.pause)
        for address in addresses:
            lost = await knock(address)
            now = _read(pulse, pid, address)
            stands = now is not None and now == before.get(address, 0)
            missed[address] = missed[address] + 1 if lost and stands else 0
            before[address] = now
    return any(before[address] for address, count in missed.items() if count >= patience.lost)


def _read(pulse: Pulse, pid: int, address: Address) -> int | None:
    """How many datagrams a worker has read at an address, as far as it has told; None if it is not connected."""
    return next((info.counters.get(f"{READ}{address.host}", 0) for info in pulse.workers() if info.pid == pid), None)
