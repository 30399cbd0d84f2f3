"""What listening sockets do beside answering: hold clients back, measure, and count who asks what. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.clock import Clock
from fairway_dns.limits import RateLimiter
from fairway_dns.measure import Timings
from fairway_dns.top import TopCounter


@dataclass(frozen=True, slots=True)
class Books:
    """Shared by all sockets of a worker. No `limiter`: no limit."""

    timings: Timings
    top: TopCounter
    limiter: RateLimiter | None = None

    @classmethod
    def empty(cls, clock: Clock) -> Books:
        """Nobody is held back, and nobody reads what is measured."""
        return cls(Timings(), TopCounter(clock))
