"""Durations in buckets that double, cheap enough for the batch loop: one index and one addition. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

BUCKETS: Final = 24
"""Bucket n counts durations below 2**n microseconds (and not below half of that); the last one everything longer: 4.2 s."""
FIRST_SHOWN: Final = 4
"""Buckets below 16 microseconds are shown as one."""


class Durations(NamedTuple):
    """A histogram as a value: the sum in seconds, and how many fell into each bucket."""

    sum: float
    counts: tuple[int, ...]

    def cumulative(self) -> Iterator[tuple[str, int]]:
        """Upper bounds in seconds with how many were no longer than that, as Prometheus wants them; "+Inf" is the last."""
        reached = list(accumulate(self.counts))
        for bucket in range(FIRST_SHOWN, len(reached) - 1):
            yield f"{2**bucket / 1e6:.6f}", reached[bucket]
        yield "+Inf", reached[-1]


class Histogram:
    """Counts durations."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * BUCKETS
        self._sum = 0.0

    def observe(self, seconds: float, count: int = 1) -> None:
        """`count` things took `seconds` each; what is negative counts as nothing."""
        bucket = max(0, int(seconds * 1e6)).bit_length()
        self._counts[bucket if bucket < BUCKETS else -1] += count
        self._sum += seconds * count

    @property
    def value(self) -> Durations:
        """A copy of the counts."""
        return Durations(round(self._sum, 6), tuple(self._counts))
