"""When the next step may begin: at once after quiet, a moment after the last one under a stream of changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress

GAP_SECONDS = 0.02
"""A change in a stream of others is live that much later at most. In return 1,000 changes a second are 50 steps and not several
hundred, each with its transaction, and a container that is attached meanwhile does not queue behind them."""


class Pace:
    """Belongs to one event loop."""

    def __init__(self, gap: float) -> None:
        """`gap` 0: there is no waiting."""
        self._gap = gap
        self._last = float("-inf")
        self._pressed = asyncio.Event()

    def press(self) -> None:
        """Somebody waits for the next step: it begins at once."""
        self._pressed.set()

    async def turn(self) -> None:
        """Wait until the next step may begin, and count it as begun."""
        loop = asyncio.get_running_loop()
        rest = self._last + self._gap - loop.time()
        if rest > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._pressed.wait()
        self._pressed.clear()

    def done(self) -> None:
        """A step has ended."""
        self._last = asyncio.get_running_loop().time()
