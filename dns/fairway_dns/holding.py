"""Replies held back until the agent has let their addresses through."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from fairway_core.clock import Clock
from fairway_dns.counters import Counters
from fairway_dns.learned import Admitted, Found, Learned
from fairway_dns.watch import Scopes

Names = tuple[Scopes, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class HoldLimits:
    """A reply is held for `patience` seconds at most. `flights` are different questions to the agent under way, `waiters` all
    replies that wait for them. `known` is how many addresses are remembered as let through.
    """

    patience: float = 0.1
    flights: int = 1000
    waiters: int = 4000
    known: int = 65_536


@dataclass(eq=False, slots=True)
class _Flight:
    ticket: int
    found: Found
    since: float
    waiters: list[Callable[[bool], None]]
    timer: asyncio.TimerHandle | None = None


class Holder:
    """Promise: what is found is told only while the kernel has let it through and will for as long as it may be used; what the
    agent does not let through in time is not told. One question for all who wait for the same; nobody else waits.
    """

    def __init__(self, clock: Clock, counters: Counters, limits: HoldLimits | None = None) -> None:
        self._clock = clock
        self._counters = counters
        self._limits = limits or HoldLimits()
        self._known: dict[Names, dict[str, float]] = {}
        self._count = 0
        self._flights: dict[tuple[Names, tuple[str, ...]], _Flight] = {}
        self._tickets: dict[int, _Flight] = {}
        self._waiters = 0
        self._number = count(1)
        self._send: Callable[[Learned], bool] | None = None

    @property
    def held(self) -> int:
        """Replies that wait now."""
        return self._waiters

    def connect(self, send: Callable[[Learned], bool]) -> None:
        """There is an agent to ask: `send` tells whether it could be sent. What an earlier one let through goes on."""
        self._send = send

    def disconnect(self) -> None:
        """There is nobody to ask: what waits is given up."""
        self._send = None
        for flight in list(self._tickets.values()):
            self._end(flight, "lost", False)

    def forget(self) -> None:
        """Ask anew about everything: what was let through may be another matter now."""
        self._known, self._count = {}, 0

    def until(self, found: Found) -> float:
        """The monotonic time until which `found` may be told with its TTL; 0 if it may not now."""
        known = self._known.get((found.scopes, found.names))
        if known is None:
            return 0.0
        last = min(known.get(address, 0.0) for address in found.addresses) - found.ttl
        return last if last > self._clock.monotonic() else 0.0

    def ask(self, found: Found, done: Callable[[bool], None]) -> None:
        """Call `done` once, with whether it may be told."""
        key = (found.scopes, found.names), found.addresses
        flight = self._flights.get(key)
        full = self._waiters >= self._limits.waiters or (flight is None and len(self._flights) >= self._limits.flights)
        if full or self._send is None or not found.scopes:
            self._counters.add("held", "full" if full else "alone" if found.scopes else "refused")
            done(False)
            return
        self._waiters += 1
        if flight is not None:
            flight.waiters.append(done)
            return
        flight = _Flight(next(self._number), found, self._clock.monotonic(), [done])
        self._flights[key] = self._tickets[flight.ticket] = flight
        if self._send(Learned(flight.ticket, found)):
            flight.timer = asyncio.get_running_loop().call_later(self._limits.patience, self._end, flight, "late", False)
        else:
            self._end(flight, "full", False)

    def admitted(self, frame: Admitted) -> None:
        """The agent's answer. One that comes too late is passed over: who asks again gets it at once."""
        flight = self._tickets.get(frame.ticket)
        if flight is None:
            return
        if frame.seconds > 0:
            self._keep(flight.found, flight.since + frame.seconds)
        self._end(flight, "admitted" if frame.seconds > 0 else "refused", frame.seconds > 0)

    def _keep(self, found: Found, until: float) -> None:
        if self._count + len(found.addresses) > self._limits.known:
            self.forget()
        known = self._known.setdefault((found.scopes, found.names), {})
        before = len(known)
        known.update(dict.fromkeys(found.addresses, until))
        self._count += len(known) - before

    def _end(self, flight: _Flight, outcome: str, good: bool) -> None:
        found = flight.found
        del self._tickets[flight.ticket], self._flights[(found.scopes, found.names), found.addresses]
        if flight.timer is not None:
            flight.timer.cancel()
        self._waiters -= len(flight.waiters)
        self._counters.add("held", outcome, len(flight.waiters))
        for done in flight.waiters:
            done(good)
