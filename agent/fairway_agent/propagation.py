"""How long it takes from the store's commit of a change until each part of the node works by it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from fairway_core.clock import Clock

MOST = 4096
"""Changes remembered that are not live yet."""


class Propagation:
    """Promise: every change seen is measured once per part, from the moment the store gives it to us; memory is bounded. What was
    there before the agent's start is no change.
    """

    def __init__(self, parts: Sequence[str], observe: Callable[[str, float], None], clock: Clock) -> None:
        """`observe` is called with the part and seconds."""
        self._observe = observe
        self._clock = clock
        self._seen: dict[str, deque[tuple[int, float]]] = {part: deque(maxlen=MOST) for part in parts}

    def seen(self, revision: int) -> None:
        """The store has committed a change as `revision`."""
        for waiting in self._seen.values():
            waiting.append((revision, self._clock.monotonic()))

    def live(self, part: str, revision: int) -> None:
        """`part` works by everything up to `revision`."""
        waiting, now = self._seen[part], self._clock.monotonic()
        while waiting and waiting[0][0] <= revision:
            self._observe(part, now - waiting.popleft()[1])
