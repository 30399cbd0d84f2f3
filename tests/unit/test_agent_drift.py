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


class Busy(Quiet):
    """A monitor that is told of our own work all the time; nothing of it is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.read = [asyncio.Event(), asyncio.Event()]

    def tell(self) -> None:
        self._ends[1].send(b"x")

    def drain(self) -> bool:
        self.read[self.reads].set()
        self.reads += 1
        while len(self._ends[0].recv(1 << 16)) == 1 << 16:
            pass
        return False


async def test_a_burst_of_notifications_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container makes dozens; reading each as it comes would compete with the work that causes them."""
    monkeypatch.setattr(drift, "SETTLE_SECONDS", 0.2)
    monkeypatch.setattr(drift, "MIN_SECONDS", 0.001)
    looks = asyncio.Event()

    async def recover() -> object:
        looks.set()
        return False

    rig: Any = Quiet()
    busy = Busy()
    task = asyncio.create_task(Drift(rig, busy, rig, rig, recover, Metrics(), logging.getLogger("test")).run())
    async with asyncio.timeout(5):
        await looks.wait()
        for expected in (1, 2):
            for _ in range(20):
                busy.tell()
                await asyncio.sleep(0)
            await busy.read[expected - 1].wait()
    await asyncio.sleep(0.05)
    assert busy.reads == 2
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
