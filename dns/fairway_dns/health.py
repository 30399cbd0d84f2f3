"""Whether a worker that is alive still does its work: it must answer the agent's pings."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol


class Pulse(Protocol):
    """Where signs of life of workers come from; the zone feed is one."""

    def ping(self, pid: int) -> None:
        """Ask the worker for a sign of life, if it is connected. Never waits."""

    def heard(self, pid: int) -> int:
        """How many frames the worker has sent over its present connection; 0 if there is none."""


@dataclass(frozen=True, slots=True)
class Patience:
    """A worker is asked every `interval` seconds and given up after `misses` questions in a row without any sign of life."""

    interval: float = 0.5
    misses: int = 8


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
