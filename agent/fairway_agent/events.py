"""Incidents to events: what is new is told soon, what repeats is counted, what is too much is left out, and nobody waits."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fairway_core.clock import Clock
from fairway_store.kubernetes.events import Incident
from fairway_store.kubernetes.faults import ApiFault, Denied, Exists, NotInstalled, Unwelcome
from fairway_store.kubernetes.timing import Backoff, Timing
from fairway_store.kubernetes.writer import ClusterWriter

LIMIT = 256
"""Incidents that are remembered, and at most as many that wait to be."""
BURST = 20
REFILL_SECONDS = 10.0
"""So many requests at once, then one in so many seconds: a node with a thousand faults must not be one more of them."""
REPEAT_SECONDS = (60.0, 360.0)
"""Repetitions are counted in the event after the first wait, which doubles up to the second."""
SPREAD_SECONDS = 30.0
"""What every node sees it tells after a random part of this: in a large cluster thousands would speak in the same second, and all
but the first in vain."""
FORGET_SECONDS = 3600.0
"""API servers keep events for an hour; an incident that is silent so long is a new one when it returns."""
TICK_SECONDS = 1.0

Report = Callable[[str, str], None]
"""Called with what cannot be written and why, in words; empty when it can be written again."""


@dataclass(slots=True)
class Series:
    """One incident and its repetitions. `first` and `last` are wall-clock seconds, `due` is monotonic."""

    incident: Incident
    first: float
    last: float
    due: float
    count: int = 1
    told: int = 0
    posted: bool = False
    wait: float = REPEAT_SECONDS[0]

    @property
    def open(self) -> bool:
        """Whether there is something to tell; what all nodes see is not counted by each."""
        return self.told < self.count and not (self.posted and self.incident.shared)


class Book:
    """Which event is to be written next. No I/O; belongs to one task."""

    def __init__(self, clock: Clock, chance: Callable[[], float]) -> None:
        """`chance` gives 0 <= x < 1."""
        self._clock = clock
        self._chance = chance
        self._series: dict[Incident, Series] = {}
        self._tokens = float(BURST)
        self._filled = clock.monotonic()

    def note(self, incident: Incident) -> bool:
        """Remember that it has happened (again); False if there is no room."""
        found = self._series.get(incident)
        wall = self._clock.wall()
        if found is not None:
            found.count, found.last = found.count + 1, wall
            return True
        if len(self._series) >= LIMIT and not self._make_room():
            return False
        due = self._clock.monotonic() + (self._chance() * SPREAD_SECONDS if incident.shared else 0.0)
        self._series[incident] = Series(incident, wall, wall, due)
        return True

    def _make_room(self) -> bool:
        idle = [item for item in self._series.values() if not item.open]
        if idle:
            del self._series[min(idle, key=lambda item: item.last).incident]
        return bool(idle)

    def next(self) -> Series | None:
        """The series that has waited longest, if one is due and the limit allows it; it counts as attempted."""
        now = self._clock.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled) / REFILL_SECONDS)
        self._filled = now
        due = [item for item in self._series.values() if item.open and item.due <= now]
        if not due or self._tokens < 1:
            return None
        self._tokens -= 1
        return min(due, key=lambda item: item.due)

    def told(self, series: Series) -> None:
        """Everything up to now is written; repetitions wait."""
        series.posted, series.told = True, series.count
        series.due = self._clock.monotonic() + series.wait
        series.wait = min(series.wait * 2, REPEAT_SECONDS[1])

    def drop(self, series: Series) -> None:
        """It will never be taken."""
        self._series.pop(series.incident, None)

    def forget_old(self) -> None:
        """Let go of what has long been silent."""
        limit = self._clock.wall() - FORGET_SECONDS
        for incident in [incident for incident, item in self._series.items() if item.last < limit and not item.open]:
            del self._series[incident]


class EventSender:
    """Writes events for one node. `tell` may be called from any thread."""

    def __init__(
        self,
        writer: ClusterWriter,
        node: str,
        report: Report,
        clock: Clock,
        log: logging.Logger,
        timing: Timing | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._writer = writer
        self._node = node
        self._report = report
        self._log = log
        self._timing = timing or Timing()
        self._chance = chance
        self._backoff = Backoff(self._timing, chance, clock.monotonic)
        self._book = Book(clock, chance)
        self._inbox: deque[Incident] = deque(maxlen=LIMIT)

    def tell(self, incident: Incident) -> None:
        """Have it told. Never waits, never fails; under a flood the oldest that nobody has looked at yet are lost."""
        self._inbox.append(incident)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await asyncio.sleep(await self.round())

    async def round(self) -> float:
        """Write what is due; seconds to wait beyond the usual."""
        lost = 0
        while self._inbox:
            lost += not self._book.note(self._inbox.popleft())
        if lost:
            self._log.warning("incidents are not told as events: too many", extra={"incidents": lost})
        self._book.forget_old()
        try:
            while (series := self._book.next()) is not None:
                await self._send(series)
                self._report("Event", "")
        except Denied as fault:
            self._report("Event", str(fault))
            return self._timing.probe * (0.5 + self._chance() / 2)
        except ApiFault as fault:
            # That the server is away is said by whoever reads from it.
            self._log.debug("an event has to wait: %s", fault)
            return self._backoff.delay(fault.retry_after)
        return 0.0

    async def _send(self, series: Series) -> None:
        try:
            if series.posted:
                await self._writer.count_event(series.incident, self._node, series.count, series.last)
            else:
                await self._writer.create_event(series.incident, self._node, series.first)
        except Exists:
            # Another node's, or our own from before a restart: that one is counted on.
            series.count += not series.incident.shared
        except NotInstalled:
            if series.posted:
                # It has expired meanwhile.
                series.posted, series.first = False, series.last
                return
            raise
        except Unwelcome as fault:
            self._log.info("an event is not wanted: %s", fault)
            self._book.drop(series)
            return
        self._book.told(series)
