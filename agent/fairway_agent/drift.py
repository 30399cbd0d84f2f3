"""Drift: somebody else changed what is ours. Noticed through netlink notifications, checked in full now and then, put back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from fairway_agent.metrics import Metrics
from fairway_agent.node import Node
from fairway_agent.reconcile import Reconciler
from fairway_core.errors import FairwayError, KernelError

SETTLE_SECONDS = 0.05
"""A burst of notifications is answered once."""
MIN_SECONDS = 1.0
"""Somebody who fights with us costs at most one full read a second."""
SYSCTL_SECONDS = 2.0
"""Kernel settings send no notifications; reading a handful of files is cheap."""
FULL_SECONDS = 60.0
REST = 9
"""Looking takes time in the number of containers: then comes a rest of so many times as long, and it costs a tenth at most."""
AGAIN_SECONDS = 1.0
"""After a repair of links they are looked at again, each time twice as late, until nothing is wrong."""


class Monitor(Protocol):
    """A netlink listener: `drain` empties it and tells whether (or what of) ours may have changed."""

    def fileno(self) -> int: ...

    def drain(self) -> object: ...

    def close(self) -> None: ...


class Drift:
    """Runs until cancelled. Repairs go through the same paths as normal changes."""

    def __init__(
        self,
        rules: Monitor,
        links: Monitor,
        reconciler: Reconciler,
        node: Node,
        recover: Callable[[], Awaitable[object]],
        metrics: Metrics,
        log: logging.Logger,
    ) -> None:
        self._monitors = {"nft": rules, "links": links}
        self._told: set[str] = set()
        self._suspected: set[str] = set()
        self._reconciler = reconciler
        self._node = node
        self._recover = recover
        self._metrics = metrics
        self._log = log
        self._wake = asyncio.Event()
        self._patience = AGAIN_SECONDS

    async def run(self) -> None:
        for part in self._monitors:
            self._listen(part)
        # What changed before the listening began was told to nobody.
        await self._suspect_all()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._repair_loop())
                group.create_task(self._every(SYSCTL_SECONDS, self._settings))
                group.create_task(self._every(FULL_SECONDS, self._suspect_all))
        finally:
            for monitor in self._monitors.values():
                asyncio.get_running_loop().remove_reader(monitor.fileno())
                monitor.close()

    def _listen(self, part: str) -> None:
        asyncio.get_running_loop().add_reader(self._monitors[part].fileno(), self._readable, part)

    def _readable(self, part: str) -> None:
        """Our own work is told as well, dozens of messages for each container: they are read together, when it is done."""
        asyncio.get_running_loop().remove_reader(self._monitors[part].fileno())
        self._told.add(part)
        self._wake.set()

    def _read(self) -> None:
        """Read what has been told since the last time, and listen again."""
        told, self._told = self._told, set()
        for part in told:
            try:
                if self._monitors[part].drain():
                    self._suspected.add(part)
            except KernelError as error:
                self._log.error("what has changed cannot be read", extra={"part": part, "error": str(error)})
                self._suspected.add(part)
            self._listen(part)

    async def _suspect_all(self) -> None:
        self._suspected.update(self._monitors)
        self._wake.set()

    async def _repair_loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(SETTLE_SECONDS)
            self._wake.clear()
            self._read()
            suspected, self._suspected = self._suspected, set()
            if "nft" in suspected:
                self._reconciler.request_verify()
            started = loop.time()
            if "links" in suspected:
                await self._repair_links()
            await asyncio.sleep(max(MIN_SECONDS, REST * (loop.time() - started)))

    async def _repair_links(self) -> None:
        try:
            self._count_settings(await asyncio.to_thread(self._node.ensure))
            repaired = bool(await self._recover())
        except FairwayError as error:
            self._log.error("links could not be repaired", extra={"error": str(error)})
            repaired = True
        if not repaired:
            self._patience = AGAIN_SECONDS
            return
        self._metrics.repairs.labels("links").inc()
        # A repair may have failed halfway, and nobody tells: look again until there is nothing to do.
        asyncio.get_running_loop().call_later(self._patience, self._suspect, "links")
        self._patience = min(2 * self._patience, FULL_SECONDS)

    def _suspect(self, part: str) -> None:
        self._suspected.add(part)
        self._wake.set()

    async def _settings(self) -> None:
        self._count_settings(self._node.ensure_settings())

    def _count_settings(self, changed: int) -> None:
        if changed:
            self._metrics.repairs.labels("sysctl").inc(changed)

    async def _every(self, seconds: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await action()
