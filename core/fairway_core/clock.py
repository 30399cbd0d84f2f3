"""Time as a value that is passed in, so that tests can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Promise: `monotonic` never goes back; `wall` is seconds since the epoch. Both in seconds."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class SystemClock:
    """The machine's clock. The functions themselves and not calls of them: it is read several times for each DNS query."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class FakeClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start

    def monotonic(self) -> float:
        return self._now

    def wall(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move both readings forward. Raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._now += seconds
