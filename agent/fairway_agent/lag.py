"""How late the event loop is: everything that is asked of the agent waits at least so long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fairway_core.clock import Clock

BEAT_SECONDS = 0.05


async def beat(observe: Callable[[float], None], clock: Clock) -> None:
    """Tell `observe` at each beat by how many seconds it was late, until cancelled."""
    while True:
        due = clock.monotonic() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        observe(max(0.0, clock.monotonic() - due))
