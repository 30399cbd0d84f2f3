"""Drift: a repair is followed by another look, until nothing is wrong."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

import pytest

from fairway_agent import drift
from fairway_agent.drift import Drift
from fairway_agent.metrics import Metrics
from fairway_core.errors import KernelError


class Quiet:
    """A monitor that nothing is ever told to, and a node that is always right."""

    def __init__(self) -> None:
        self._ends = socket.socketpair()

    def fileno(self) -> int:
        return self._ends[0].fileno()

    def drain(self) -> bool:
        return False

    def close(self) -> None:
        for end in self._ends:
            end.close()

    def ensure(self) -> int:
        return 0

    def ensure_settings(self) -> int:
        return 0

    def request_verify(self) -> None:
        pass


async def test_links_are_looked_at_until_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SETTLE_SECONDS", "MIN_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(drift, name, 0.001)
    outcomes: list[Any] = [True, KernelError(16, "attach"), True, False]
    looks, done = 0, asyncio.Event()

    async def recover() -> object:
        nonlocal looks
        outcome = outcomes[looks]
        looks += 1
        if looks == len(outcomes):
            done.set()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    rig: Any = Quiet()
    task = asyncio.create_task(Drift(rig, Quiet(), rig, rig, recover, Metrics(), logging.getLogger("test")).run())
    async with asyncio.timeout(5):
        await done.wait()
    await asyncio.sleep(0.1)
    assert looks == len(outcomes)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
