"""Whether a worker that is alive still does its work: it must answer the agent's pings, and answer what comes to its sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fairway_dns.config import Address
from fairway_dns.knock import Unanswered

if TYPE_CHECKING:
    from fairway_dns.feed import WorkerInfo

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
    answer while it did nothing.
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


Knock = Callable[[Address], Awaitable[Unanswered]]
"""Puts questions to an address; how many were not answered."""


async def useless(pulse: Pulse, pid: int, addresses: Sequence[Address], knock: Knock, patience: Patience) -> bool:
    """Return once the worker is given up because it takes nothing from a socket of one of its addresses, or nothing comes of what
    it takes; whether anything ever did.

    A worker that others share the port with gets only some of the knocks, and under a flood it may get none; but then it does
    other things. So both must come together: lost knocks, and counts that stand still. One that is not connected is for `silent`
    to judge.
    """
    before: dict[Address, _Done | None] = {}
    missed = dict.fromkeys(((address, kind) for address in addresses for kind in Unanswered._fields), 0)
    while all(count < patience.lost for count in missed.values()):
        await asyncio.sleep(patience.pause)
        for address in addresses:
            lost = await knock(address)
            now, then = _done(pulse, pid, address), before.get(address) or _Done()
            idle = Unanswered(*now.stands_since(then)) if now is not None else Unanswered()
            for kind, unanswered, stands in zip(Unanswered._fields, lost, idle, strict=True):
                missed[address, kind] = missed[address, kind] + 1 if unanswered and stands else 0
            before[address] = now
    given_up = [(before[address] or _Done(), kind) for (address, kind), count in missed.items() if count >= patience.lost]
    return any(done.handled if kind == "udp" else done.tcp_handled for done, kind in given_up)


class _Done(NamedTuple):
    """What a worker has done at an address, as far as it has told: datagrams `read` and dealt with, queries over TCP (or
    connections refused) dealt with, and knocks answered over it.
    """

    read: int = 0
    handled: int = 0
    tcp_handled: int = 0
    tcp_knocks: int = 0

    def stands_since(self, before: _Done) -> tuple[bool, bool]:
        """Whether it does nothing, over UDP and over TCP. One that never answered a knock over TCP may be out of reach for them,
        by rules of the node, and yet be of use to others.
        """
        udp = self.read == before.read or self.handled == before.handled
        return udp, self.tcp_handled == before.tcp_handled and self.tcp_knocks > 0


def _done(pulse: Pulse, pid: int, address: Address) -> _Done | None:
    """None if the worker is not connected."""
    for info in pulse.workers():
        if info.pid == pid:
            return _Done(*(info.counters.get(f"{name}:{address.host}", 0) for name in _Done._fields))
    return None
