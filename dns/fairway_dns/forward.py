"""Forwarding: several upstreams, one answer, in bounded time and bounded memory.

A question goes to the best server; if it has not answered after `patience`, the next one is asked as well and the first good
answer wins. Equal questions share one flight. Upstreams that send our questions back to us are found out and left
out (`loop.py`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Final

from fairway_core.clock import Clock
from fairway_dns.config import Address
from fairway_dns.counters import Counters
from fairway_dns.direct import SEQUEL, Lookout, lookout
from fairway_dns.loop import LoopGuard
from fairway_dns.measure import Timings
from fairway_dns.names import suffixes
from fairway_dns.question import Asked
from fairway_dns.response import EDE_NETWORK, EDE_OTHER, EDE_UNREACHABLE, Response
from fairway_dns.tls import TlsServer
from fairway_dns.turn import Turn
from fairway_dns.upstream import Attempt, Server, Unusable, Upstream
from fairway_dns.wire import SERVFAIL, Tail

TICK: Final = 0.025
"""Seconds between two looks at the clock while questions are under way."""
NEAR: Final = 0.01
"""Seconds; servers whose times differ by less than this count as equally fast."""
NEARBY: Final = 0.0001
"""Seconds for which it may pay not to sleep until an answer comes: that of a server on the same machine or link."""
FEW: Final = 2
"""Questions under way up to which it is done at all (an A and an AAAA, say): with more, there is work to do meanwhile."""
FAILURE_TTL: Final = 300
"""Seconds a failure may be kept at most (RFC 2308, 7; RFC 9520, 3.2)."""
REASONS: Final = {EDE_UNREACHABLE: "no upstream answered", EDE_NETWORK: "no upstream could be spoken to"}
LOOP: Final = Response(Tail(SERVFAIL, ede=EDE_UNREACHABLE, text="the upstream sends questions back here"), 0)
ROOT: Final = b"\0"
NEVER: Final = -1e9
Waiter = Callable[[Response], None]


@dataclass(frozen=True, slots=True)
class ForwardLimits:
    """Seconds: `patience` before the next server is asked too, `total` for the whole (clients give up after 5). `flights` are
    different questions under way, `waiters` everybody who waits for them. A server that failed is asked last for `penalty`
    seconds. Each server is asked in at most `rounds` rounds; one that has said that it cannot answer is not asked again.
    """

    patience: float = 0.8
    total: float = 4.5
    rounds: int = 3
    flights: int = 1000
    waiters: int = 5000
    penalty: float = 10.0


class _Flight:
    """One question under way: who waits, which servers may still be asked, the attempts made, the best answer that is no
    success. Times are monotonic seconds.
    """

    # What most flights never have is of the class: a flight is begun while a client waits.
    failed: tuple[Server, ...] = ()
    latest: Server | None = None
    fallback: Response | None = None
    next_at = 0.0
    step = 0
    ede = EDE_UNREACHABLE

    def __init__(self, forwarder: Forwarder, asked: Asked, order: Sequence[Server], deadline: float, waiter: Waiter) -> None:
        self.forwarder, self.asked, self.order, self.deadline = forwarder, asked, order, deadline
        self.waiters = [waiter]
        self.attempts: list[Attempt] = []

    def settle(self, attempt: Attempt, outcome: Response | Unusable) -> None:
        """See `Asker`."""
        self.attempts.remove(attempt)
        if isinstance(outcome, Response):
            # Who waits comes first.
            self.forwarder.land(self, outcome)
            self.forwarder.answered(attempt)
        else:
            self.forwarder.failed(self, attempt, outcome)

    def outcome(self) -> Response:
        """What to say when no server has a good answer."""
        if self.fallback is not None:
            return self.fallback._replace(ttl=FAILURE_TTL)
        return _servfail(self.ede, FAILURE_TTL, REASONS[self.ede])


class _Health:
    """What is known of one server: its smoothed time to answer in seconds, and when it failed last."""

    __slots__ = ("failed_at", "time")

    def __init__(self) -> None:
        self.time, self.failed_at = 0.0, NEVER


class Forwarder:
    """Asks upstreams. Promise: `ask` and `resolve` never raise for what an upstream does; when all fail the answer is the last
    rcode they gave, or SERVFAIL with the reason, within `limits.total` seconds.

    `security` is for servers with a TLS name, which without it are not used. Questions asked within `turn` leave together at its
    end. With `log`, servers are probed for loops.
    """

    def __init__(
        self,
        upstreams: Sequence[Address],
        own: Iterable[Address],
        clock: Clock,
        limits: ForwardLimits | None = None,
        *,
        turn: Turn | None = None,
        security: ssl.SSLContext | None = None,
        counters: Counters | None = None,
        timings: Timings | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self._timings = timings or Timings()
        self._limits = limits or ForwardLimits()
        self._clock = clock
        self._security = security
        self._turn = turn
        mine = frozenset(own)
        # Asking ourselves would go round for ever.
        usable = (address for address in dict.fromkeys(upstreams) if address not in mine)
        self._addresses = tuple(address for address in usable if security is not None or not address.tls_name)
        self._servers: list[Server] = []
        self._health = {address: _Health() for address in self._addresses}
        self._flights: dict[Asked, _Flight] = {}
        self._waiters = 0
        self._timer: asyncio.TimerHandle | None = None
        self._answers: Lookout | None = None
        self._sequels: Lookout | None = None
        self._guard = LoopGuard(log, counters or Counters(), self._loops) if log is not None else None
        self._looping: Set[Server] = self._guard.bad if self._guard is not None else frozenset()

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
        if not self._addresses:
            waiter(_servfail(EDE_UNREACHABLE, 0, "no upstream is configured"))
            return
        flight = self._flights.get(asked)
        full = flight is None and len(self._flights) >= self._limits.flights
        if full or self._waiters >= self._limits.waiters:
            waiter(_servfail(EDE_OTHER, 0, "too many questions are under way"))
            return
        self._waiters += 1
        if flight is not None:
            flight.waiters.append(waiter)
            return
        now = self._clock.monotonic()
        order = self._servers if len(self._servers) == 1 else self._order(now)
        flight = _Flight(self, asked, order, now + self._limits.total, waiter)
        self._flights[asked] = flight
        self._try_next(flight, now)
        if self._answers is not None and len(self._flights) <= FEW:
            self._answers.expect()
        if self._timer is None and self._flights:
            self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)

    async def resolve(self, asked: Asked) -> Response:
        """As `ask`, for those who can wait."""
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.ask(asked, lambda response: None if future.done() else future.set_result(response))
        return await future

    def returned(self, asked: Asked) -> bool:
        """Whether this question is one that only we could have asked; then the upstream it went to is asked no more."""
        return self._guard is not None and self._guard.returned(asked)

    def apex(self, name: bytes) -> bytes:
        """The zone whose servers answer for a name: the root."""
        return ROOT

    async def close(self) -> None:
        """Give up what is under way, whose waiters get SERVFAIL, and close every socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._guard is not None:
            self._guard.close()
        for flight in list(self._flights.values()):
            self.land(flight, _servfail(EDE_OTHER, 0, "the server is being stopped"))
        for server in self._servers:
            server.close()
        self._servers = []

    def _tick(self) -> None:
        now = self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick) if self._flights else None
        for flight in list(self._flights.values()):
            if now >= flight.deadline:
                self.land(flight, flight.outcome())
            elif now >= flight.next_at and flight.latest is not None:
                # It is asked no more for a while, but its late answer still counts.
                self._health[flight.latest.address].failed_at = now
                if self._guard is not None:
                    self._guard.suspect(flight.latest)
                self._try_next(flight, now)

    def _try_next(self, flight: _Flight, now: float) -> None:
        """Ask one more server; when all were asked, wait for those that have not answered."""
        server = flight.latest = self._next(flight)
        if server is None:
            if not flight.attempts:
                self.land(flight, flight.outcome())
            return
        flight.next_at = now + self._limits.patience
        flight.attempts.append(server.ask(flight.asked, flight, now, flight.step <= len(flight.order)))

    def _next(self, flight: _Flight) -> Server | None:
        order, last = flight.order, len(flight.order) * self._limits.rounds
        while flight.step < last:
            server = order[flight.step % len(order)]
            flight.step += 1
            if server not in flight.failed and server not in self._looping:
                return server
        return None

    def answered(self, attempt: Attempt) -> None:
        """A server has answered: what is learned from that."""
        address = attempt.server.address
        health = self._health[address]
        health.failed_at = NEVER
        took = self._clock.monotonic() - attempt.since
        health.time += (took - health.time) / 8
        self._timings.upstream(address, took)
        if self._sequels is not None and len(self._flights) < FEW:
            self._sequels.expect()

    def failed(self, flight: _Flight, attempt: Attempt, outcome: Unusable) -> None:
        """A server cannot answer a flight's question: another one may."""
        server = attempt.server
        now = self._clock.monotonic()
        self._health[server.address].failed_at = now
        flight.failed += (server,)
        flight.fallback = outcome.response or flight.fallback
        if outcome.response is None:
            flight.ede = EDE_NETWORK
        if server is flight.latest or not flight.attempts:
            self._try_next(flight, now)

    def land(self, flight: _Flight, response: Response) -> None:
        """The end of a flight: tell all who wait."""
        del self._flights[flight.asked]
        while flight.attempts:
            flight.attempts.pop().cancel()
        self._waiters -= len(flight.waiters)
        for waiter in flight.waiters:
            try:
                waiter(response)
            except Exception as error:
                # What one waiter makes of it must not be the loss of others.
                told = {"message": "an answer could not be handled", "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)

    def _loops(self, server: Server) -> None:
        """Questions that wait for a server which sends them back to us go on without it."""
        for flight in list(self._flights.values()):
            for attempt in [one for one in flight.attempts if one.server is server]:
                attempt.cancel()
                flight.settle(attempt, Unusable("a loop", LOOP))

    def _order(self, now: float) -> Sequence[Server]:
        """Servers as configured, clearly slower ones behind, those that failed lately last."""
        if not self._servers:
            self._open()
        if len(self._servers) == 1:
            return self._servers

        def rank(server: Server) -> tuple[bool, int]:
            health = self._health[server.address]
            return now - health.failed_at < self._limits.penalty, int(health.time / NEAR)

        ordered = sorted(self._servers, key=rank)
        for server in ordered[1:]:
            # What is not asked cannot show that it has become faster, so its past fades.
            self._health[server.address].time *= 0.98
        return ordered

    def _open(self) -> None:
        loop, turn = asyncio.get_running_loop(), self._turn or Turn()
        for address in self._addresses:
            if address.tls_name and self._security is not None:
                self._servers.append(TlsServer(address, loop, self._security))
            else:
                self._servers.append(Upstream(address, loop, turn))
        self._answers, self._sequels = lookout(loop, NEARBY), lookout(loop, SEQUEL)
        if self._guard is not None:
            self._guard.start(self._servers)


class Routes:
    """The forwarder of each zone: that of the longest stub zone a name ends in, else the default one."""

    def __init__(self, default: Forwarder, stubs: Mapping[bytes, Forwarder] | None = None) -> None:
        self._default = default
        self._stubs = dict(stubs or {})

    def ask(self, asked: Asked, waiter: Waiter) -> None:
        """As `Forwarder.ask`."""
        (self._of(asked.name) if self._stubs else self._default).ask(asked, waiter)

    def returned(self, asked: Asked) -> bool:
        """As `Forwarder.returned`, of any of them."""
        return self._default.returned(asked) or any(stub.returned(asked) for stub in self._stubs.values())

    @property
    def pending(self) -> int:
        """Different questions under way."""
        return sum(one.pending for one in (self._default, *self._stubs.values()))

    def apex(self, name: bytes) -> bytes:
        """The zone (a key) whose servers answer for a name; the root for the default ones."""
        if self._stubs:
            for _pos, suffix in suffixes(name):
                if suffix in self._stubs:
                    return suffix
        return ROOT

    async def close(self) -> None:
        """Close all forwarders."""
        for forwarder in (self._default, *self._stubs.values()):
            await forwarder.close()

    def _of(self, name: bytes) -> Forwarder:
        return self._stubs.get(self.apex(name), self._default)


def _servfail(ede: int, ttl: int, text: str) -> Response:
    return Response(Tail(SERVFAIL, ede=ede, text=text), ttl)
