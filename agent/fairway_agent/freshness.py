"""Whether the node's rules keep up with its objects, as kube-proxy's health check has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fairway_core.clock import Clock

SYNC_SECONDS = 30.0
"""Changes are live within milliseconds; what is not live after this long is late. kube-proxy's default syncPeriod."""
STALE_SECONDS = 2 * SYNC_SECONDS
TICK_SECONDS = 1.0
MOST = 256


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the node is: the revision of its objects, that of its rules, and whether the rules are known to be wrong."""

    wanted: int
    live: int
    broken: bool = False


class Freshness:
    """Looked at every `TICK_SECONDS` and when somebody asks.

    Promise: rules are fresh as long as every change seen more than `STALE_SECONDS` ago is live, however many newer ones wait
    (kube-proxy: pkg/proxy/healthcheck, "oldest pending queued"), and while nothing is known to be wrong for longer than that.
    """

    def __init__(self, clock: Clock, progress: Callable[[], Progress]) -> None:
        """Until something is live, nothing is fresh."""
        self._clock = clock
        self._progress = progress
        self._pending: deque[tuple[float, int]] = deque()
        self._broken_since: float | None = None
        self._updated = 0.0

    @property
    def updated(self) -> float:
        """Seconds since the epoch when the rules were last what they should be; 0 if they never were."""
        self.look()
        return self._updated

    def look(self) -> bool:
        """Take notice of what has become live; whether the rules are fresh."""
        now, at = self._clock.monotonic(), self._progress()
        while self._pending and self._pending[0][1] <= at.live:
            self._pending.popleft()
        newest = self._pending[-1][1] if self._pending else at.live
        if at.wanted > newest and len(self._pending) < MOST:
            self._pending.append((now, at.wanted))
        self._broken_since = (now if self._broken_since is None else self._broken_since) if at.broken else None
        if at.live and not self._pending and not at.broken:
            self._updated = self._clock.wall()
        return bool(at.live) and now - self._oldest(now) < STALE_SECONDS

    def _oldest(self, now: float) -> float:
        """Since when something is not as it should be; `now` if all is well."""
        since = [self._pending[0][0]] if self._pending else []
        return min([*since, *([self._broken_since] if self._broken_since is not None else [])], default=now)
