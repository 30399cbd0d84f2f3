"""What listening sockets do beside answering: hold clients back, measure, and count who asks what. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.clock import Clock
from fairway_dns.limits import RateLimiter
from fairway_dns.measure import Timings
from fairway_dns.querylog import QueryLog
from fairway_dns.top import TopCounter


@dataclass(frozen=True, slots=True)
class Books:
    """Shared by all sockets of a worker. No `limiter`: no limit; no `log`: no query log."""

    timings: Timings
    top: TopCounter
    limiter: RateLimiter | None = None
    log: QueryLog | None = None

    def answered(self, reply: bytes, client: bytes, seconds: float, *, forwarded: bool, transport: str) -> None:
        """A reply that was not prepared has left for `client` (a packed address), so many seconds after its query was read."""
        (self.timings.forwarded if forwarded else self.timings.local).observe(seconds)
        if self.log is not None:
            self.log.answered(reply, client, seconds, "forwarded" if forwarded else "local", transport)

    @classmethod
    def empty(cls, clock: Clock) -> Books:
        """Nobody is held back, and nobody reads what is measured."""
        return cls(Timings(), TopCounter(clock))
