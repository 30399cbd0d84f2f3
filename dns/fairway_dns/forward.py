"""Forwarding: several upstreams, one answer, in bounded time and bounded memory.

A question goes to the best server; if it has not answered after `patience`, the next one is asked as well and the first good
answer wins. Equal questions share one flight. That also tames loops: a question that comes back to us joins its own flight and
ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from fairway_core.clock import Clock
from fairway_dns.cache import Asked
from fairway_dns.config import Address
from fairway_dns.names import suffixes
from fairway_dns.response import Response
from fairway_dns.upstream import Attempt, Unusable, Upstream
from fairway_dns.wire import SERVFAIL, Tail

TICK: Final = 0.025
"""Seconds between two looks at the clock while questions are under way."""
NEAR: Final = 0.01
"""Seconds; servers whose times differ by less than this count as equally fast."""
Waiter = Callable[[Response], None]


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Seconds: `patience` before the next server is asked too, `total` for the whole (clients give up after 5). `flights` are
    different questions under way, `waiters` everybody who waits for them. A server that failed is asked last for `penalty`
    seconds.
    """

    patience: float = 0.8
    total: float = 4.5
    rounds: int = 3
    flights: int = 1000
    waiters: int = 5000
    penalty: float = 10.0


@dataclass(eq=False, slots=True)
class _Flight:
    """One question under way: who waits, which servers may still be asked, the attempts made, the best answer that is no
    success. Times are monotonic seconds.
    """

    asked: Asked
    order: Iterator[Upstream]
    deadline: float
    waiters: list[Waiter] = field(default_factory=list)
    attempts: dict[Attempt, tuple[Upstream, float]] = field(default_factory=dict)
    latest: Upstream | None = None
    next_at: float = 0.0
    fallback: Response | None = None


@dataclass(slots=True)
class _Health:
    """What is known of one server: its smoothed time to answer in seconds, and when it failed last."""

    time: float = 0.0
    failed_at: float = -1e9


class Forwarder:
    """Asks upstreams. Promise: `ask` and `resolve` never raise for what an upstream does; when all fail the answer is the last
    rcode they gave, or SERVFAIL, within `limits.total` seconds.
    """

    def __init__(
        self, upstreams: Sequence[Address], own: Iterable[Address], clock: Clock, limits: ForwardLimits | None = None
    ) -> None:
        self._limits = limits or ForwardLimits()
        self._clock = clock
        mine = frozenset(own)
        # Asking ourselves would go round for ever.
        self._addresses = tuple(address for address in dict.fromkeys(upstreams) if address not in mine)
        self._servers: list[Upstream] = []
        self._health = {address: _Health() for address in self._addresses}
        self._flights: dict[Asked, _Flight] = {}
        self._waiters = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def pending(self) -> int:
        """Different questions under way."""
        return len(self._flights)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The upstreams in use: configured ones without duplicates and without ourselves."""
        return self._addresses

    def ask(self, asked: Asked, waiter: Waiter) -> None:
        """Call `waiter` once with the upstreams' answer; SERVFAIL at once if too much is under way or there is no upstream."""
        flight = self._flights.get(asked)
        full = flight is None and len(self._flights) >= self._limits.flights
        if full or self._waiters >= self._limits.waiters or not self._addresses:
            waiter(_servfail())
            return
        self._waiters += 1
        if flight is not None:
            flight.waiters.append(waiter)
            return
        now = self._clock.monotonic()
        flight = _Flight(asked, iter(self._order(now) * self._limits.rounds), now + self._limits.total, [waiter])
        self._flights[asked] = flight
        self._try_next(flight, now)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    async def resolve(self, asked: Asked) -> Response:
        """As `ask`, for those who can wait."""
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.ask(asked, lambda response: None if future.done() else future.set_result(response))
        return await future

    async def close(self) -> None:
        """Give up what is under way, whose waiters get SERVFAIL, and close every socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for flight in list(self._flights.values()):
            self._land(flight, _servfail())
        for server in self._servers:
            server.close()
        self._servers = []

    def _tick(self) -> None:
        now = self._clock.monotonic()
        for flight in list(self._flights.values()):
            if now >= flight.deadline:
                self._land(flight, flight.fallback or _servfail())
            elif now >= flight.next_at and flight.latest is not None:
                # It is asked no more for a while, but its late answer still counts.
                self._health[flight.latest.address].failed_at = now
                self._try_next(flight, now)
        again = bool(self._flights)
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick) if again else None

    def _try_next(self, flight: _Flight, now: float) -> None:
        """Ask one more server; when all were asked, wait for those that have not answered."""
        server = flight.latest = next(flight.order, None)
        if server is None:
            if not flight.attempts:
                self._land(flight, flight.fallback or _servfail())
            return
        flight.next_at = now + self._limits.patience

        def done(outcome: Response | Unusable) -> None:
            self._settle(flight, attempt, outcome)

        attempt = server.ask(flight.asked, done)
        flight.attempts[attempt] = (server, now)

    def _settle(self, flight: _Flight, attempt: Attempt, outcome: Response | Unusable) -> None:
        server, since = flight.attempts.pop(attempt)
        health, now = self._health[server.address], self._clock.monotonic()
        if isinstance(outcome, Response):
            health.failed_at = -1e9
            health.time += (now - since - health.time) / 8
            self._land(flight, outcome)
            return
        health.failed_at = now
        flight.fallback = outcome.response or flight.fallback
        if server is flight.latest or not flight.attempts:
            self._try_next(flight, now)

    def _land(self, flight: _Flight, response: Response) -> None:
        del self._flights[flight.asked]
        for attempt in flight.attempts:
            attempt.cancel()
        flight.attempts.clear()
        self._waiters -= len(flight.waiters)
        for waiter in flight.waiters:
            waiter(response)

    def _order(self, now: float) -> list[Upstream]:
        """Servers as configured, clearly slower ones behind, those that failed lately last."""
        if not self._servers:
            loop = asyncio.get_running_loop()
            self._servers = [Upstream(address, loop) for address in self._addresses]
        if len(self._servers) == 1:
            return self._servers

        def rank(server: Upstream) -> tuple[bool, int]:
            health = self._health[server.address]
            return now - health.failed_at < self._limits.penalty, int(health.time / NEAR)

        ordered = sorted(self._servers, key=rank)
        for server in ordered[1:]:
            # What is not asked cannot show that it has become faster, so its past fades.
            self._health[server.address].time *= 0.98
        return ordered


class Routes:
    """The forwarder of each zone: that of the longest stub zone a name ends in, else the default one."""

    def __init__(self, default: Forwarder, stubs: Mapping[bytes, Forwarder] | None = None) -> None:
        self._default = default
        self._stubs = dict(stubs or {})

    def ask(self, asked: Asked, waiter: Waiter) -> None:
        """As `Forwarder.ask`."""
        self._of(asked.name).ask(asked, waiter)

    async def close(self) -> None:
        """Close all forwarders."""
        for forwarder in (self._default, *self._stubs.values()):
            await forwarder.close()

    def _of(self, name: bytes) -> Forwarder:
        if self._stubs:
            for _pos, suffix in suffixes(name):
                found = self._stubs.get(suffix)
                if found is not None:
                    return found
        return self._default


def _servfail() -> Response:
    return Response(Tail(SERVFAIL), 0)
