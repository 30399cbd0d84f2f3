"""How long to wait for what. Seconds throughout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Timing:
    """Limits of a reflector; the defaults are for production.

    `silence`: a watch that brings neither event nor bookmark for so long is taken for dead (servers send a bookmark about every
    minute); `list_silence` is the same for a streaming list, which does not pause. `watch`: what a watch is asked to live,
    times 1 to 2. `calm`: after so long without a failure the backoff starts anew. `probe`: how often a resource that is not
    installed is looked for again, times 0.5 to 1. `grace`: once everything else has been listed, a kind that the node can do
    without is waited for so long, if it fails.
    """

    connect: float = 10.0
    request: float = 60.0
    silence: float = 150.0
    list_silence: float = 20.0
    watch: float = 300.0
    base: float = 0.5
    cap: float = 30.0
    calm: float = 60.0
    probe: float = 300.0
    page: int = 500
    grace: float = 10.0


class Backoff:
    """Waits that grow while failures follow each other, with jitter, so that the nodes of a cluster do not return in step."""

    def __init__(self, timing: Timing, random: Callable[[], float], monotonic: Callable[[], float]) -> None:
        """`random` gives 0 <= x < 1."""
        self._timing = timing
        self._random = random
        self._monotonic = monotonic
        self._failures = 0
        self._last = float("-inf")

    def delay(self, at_least: float = 0.0) -> float:
        """Seconds to wait after one more failure: half to all of base * 2^n up to cap, on top of what the server asked for."""
        now = self._monotonic()
        if now - self._last > self._timing.calm:
            self._failures = 0
        ceiling = min(self._timing.cap, self._timing.base * (1 << min(self._failures, 16)))
        self._failures += 1
        wait = at_least + ceiling * (0.5 + self._random() / 2)
        # The wait itself is no calm.
        self._last = now + wait
        return wait
