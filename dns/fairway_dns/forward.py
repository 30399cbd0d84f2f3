"""Forwarding: several upstreams, one answer, in bounded time and bounded memory.

A question goes to the best server; if it has not answered after `patience`, the next one is asked as well and the first good
answer wins. Equal questions share one flight. That also tames loops: a question that comes back to us joins its own flight and
ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from fairway_core.clock import Clock
from fairway_dns.cache import Asked
from fairway_dns.config import Address
from fairway_dns.response import Response
from fairway_dns.upstream import Unusable, Upstream
from fairway_dns.wire import SERVFAIL, Tail


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


@dataclass(slots=True)
class _Flight:
    task: asyncio.Task[Response]
    waiters: int = 0


@dataclass(slots=True)
class _Tried:
    """Attempts under way for one flight, and the best answer that is no success."""

    tasks: dict[asyncio.Task[Response], Upstream] = field(default_factory=dict)
    fallback: Response | None = None


class Forwarder:
    """Asks upstreams. Promise: `resolve` never raises for what an upstream does; when all fail the answer is the last rcode
    they gave, or SERVFAIL, within `limits.total` seconds.
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
        self._failed_at: dict[Address, float] = {}
        self._flights: dict[Asked, _Flight] = {}
        self._waiters = 0

    @property
    def pending(self) -> int:
        """Different questions under way."""
        return len(self._flights)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """The upstreams in use: configured ones without duplicates and without ourselves."""
        return self._addresses

    async def resolve(self, asked: Asked) -> Response:
        """The upstreams' answer. SERVFAIL at once if too much is under way or there is no upstream."""
        flight = self._flights.get(asked)
        if self._waiters >= self._limits.waiters or not self._addresses:
            return _servfail()
        if flight is None:
            if len(self._flights) >= self._limits.flights:
                return _servfail()
            flight = self._flights[asked] = _Flight(asyncio.create_task(self._fly(asked)))
        self._waiters += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            self._waiters -= 1

    async def close(self) -> None:
        """Cancel what is under way and close every socket."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in self._servers:
            server.close()
        self._servers = []

    async def _fly(self, asked: Asked) -> Response:
        tried = _Tried()
        try:
            return await self._race(asked, tried)
        finally:
            del self._flights[asked]
            for task in tried.tasks:
                task.cancel()
            await asyncio.gather(*tried.tasks, return_exceptions=True)

    async def _race(self, asked: Asked, tried: _Tried) -> Response:
        deadline = self._clock.monotonic() + self._limits.total
        for server in self._order() * self._limits.rounds:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                break
            tried.tasks[asyncio.create_task(server.exchange(asked))] = server
            found = await self._settle(tried, min(self._limits.patience, left), wait_all=False)
            if found is not None:
                return found
            if any(waiting is server for waiting in tried.tasks.values()):
                self._failed_at[server.address] = self._clock.monotonic()
        left = deadline - self._clock.monotonic()
        found = await self._settle(tried, left, wait_all=True) if left > 0 else None
        return found or tried.fallback or _servfail()

    async def _settle(self, tried: _Tried, timeout: float, wait_all: bool) -> Response | None:
        """Wait until an attempt succeeds (its answer), one fails and another may be made, or the time is over (None)."""
        deadline = self._clock.monotonic() + timeout
        while tried.tasks:
            left = deadline - self._clock.monotonic()
            done, _ = await asyncio.wait(tried.tasks, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                server = tried.tasks.pop(task)
                found = self._outcome(task, server, tried)
                if found is not None:
                    return found
            if not done or not wait_all:
                return None
        return None

    def _outcome(self, task: asyncio.Task[Response], server: Upstream, tried: _Tried) -> Response | None:
        error = task.exception()
        if error is None:
            self._failed_at.pop(server.address, None)
            return task.result()
        if not isinstance(error, Unusable):
            raise error
        self._failed_at[server.address] = self._clock.monotonic()
        tried.fallback = error.response or tried.fallback
        return None

    def _order(self) -> list[Upstream]:
        """Servers as configured, those that failed lately last."""
        if not self._servers:
            loop = asyncio.get_running_loop()
            self._servers = [Upstream(address, loop) for address in self._addresses]
        now = self._clock.monotonic()

        def failed(server: Upstream) -> bool:
            return now - self._failed_at.get(server.address, -1e9) < self._limits.penalty

        return sorted(self._servers, key=failed)


def _servfail() -> Response:
    return Response(Tail(SERVFAIL), 0)
