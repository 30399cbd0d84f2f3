"""Keeps one worker process working without owning its life: a worker outlives the agent and is adopted by the next one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fairway_dns.config import listening
from fairway_dns.health import Patience, Pulse, silent, useless
from fairway_dns.knock import unanswered
from fairway_dns.launch import Launcher, OwnLauncher
from fairway_dns.process import Running, alive, ended, kill, read_pid_file, readable, terminate, write_pid_file

READY_TIMEOUT = 10.0
GRACE = 3.0
FIRST_DELAY = 0.1
LAST_DELAY = 10.0
STABLE = 30.0
"""Seconds after which a worker counts as stable, so that its next death is answered without delay again."""


class WorkerSupervisor:
    """Promise: while started, exactly one worker with `argv` runs (after a death a new one follows, with growing delay); one
    with other arguments is replaced without a gap: the new one is ready before the old one is told to stop. With a `pulse`, one
    that lives but gives no sign of it, or leaves queries unanswered, is killed once its successor is ready. Cancelling or
    `detach` leaves the worker running.
    """

    def __init__(
        self,
        argv: Sequence[str],
        pid_file: Path,
        log: logging.Logger,
        pulse: Pulse | None = None,
        patience: Patience | None = None,
        launcher: Launcher | None = None,
    ) -> None:
        """`launcher` starts the workers; without one they are children of this process."""
        self._launcher = launcher or OwnLauncher()
        self._argv = tuple(argv)
        self._pid_file = pid_file
        self._log = log
        self._pulse = pulse
        self._patience = self._first_patience = patience or Patience()
        self._running: Running | None = None
        self._task: asyncio.Task[None] | None = None
        self.restarts = 0
        """Workers started after a death."""
        self.hung = 0
        """Workers killed because they gave no sign of life, or left queries unanswered."""

    @property
    def pid(self) -> int | None:
        """The worker's process id, None while none runs."""
        return self._running.pid if self._running is not None and alive(self._running) else None

    async def run(self) -> None:
        """Keep a worker until cancelled, whatever happens; after that it goes on by itself. For a task group."""
        try:
            await self._begin()
        except OSError as error:
            self._log.error("dns worker cannot be started: %s", error)
        await self._watch()

    async def start(self) -> None:
        """As `run`, in a task of its own; returns when the worker is ready. Raises OSError if it cannot be started."""
        await self._begin()
        self._task = asyncio.create_task(self._watch())

    async def change(self, argv: Sequence[str]) -> None:
        """Go on with a worker of other arguments, as `start` does. Raises OSError."""
        await self.detach()
        self._argv = tuple(argv)
        await self.start()

    async def stop(self) -> None:
        """End the worker too: SIGTERM, then SIGKILL."""
        await self.detach()
        if self._running is not None:
            await terminate(self._running, GRACE)
            self._running = None
        self._pid_file.unlink(missing_ok=True)

    async def detach(self) -> None:
        """Stop watching; the worker goes on."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _begin(self) -> None:
        self._pid_file.parent.mkdir(parents=True, exist_ok=True)
        await self._launcher.claim()
        old = read_pid_file(self._pid_file)
        if old is not None and not alive(old):
            old = None
        if old is not None and old.argv == self._argv:
            self._running = old
            self._log.info("adopted dns worker %d", old.pid)
            return
        try:
            await self._launch()
        except asyncio.CancelledError:
            if old is not None:
                await self._keep(old)
            raise
        if old is not None:
            await self._replace(old)

    async def _keep(self, old: Running) -> None:
        """Go back to a worker whose successor has not come so far."""
        if self._running is not None:
            await kill(self._running, GRACE)
        write_pid_file(self._pid_file, old)
        self._running = old

    async def _replace(self, old: Running) -> None:
        new = self._running
        if new is not None and alive(new):
            self._log.info("dns worker %d replaces %d", new.pid, old.pid)
            await terminate(old, GRACE)
        else:
            # Fail static: answers by the old settings are better than none. The new ones are tried again when it ends.
            self._log.error("dns worker with new settings does not start; keeping %d", old.pid)
            write_pid_file(self._pid_file, old)
            self._running = old

    async def _watch(self) -> None:
        delay = FIRST_DELAY
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            if self._running is not None and await self._lasts(self._running):
                await self._relieve(self._running)
                continue
            self._running = None
            delay = FIRST_DELAY if loop.time() - since > STABLE else min(delay * 2, LAST_DELAY)
            await asyncio.sleep(delay)
            try:
                await self._launcher.claim()
                # While nobody was here to start one, whoever starts workers may have done so by himself.
                self._running = self._successor()
                if self._running is None:
                    await self._launch()
                    self.restarts += 1
            except OSError as error:
                self._log.error("dns worker cannot be started: %s", error)

    def _successor(self) -> Running | None:
        """The worker on record, if it lives and is as ours should be."""
        found = read_pid_file(self._pid_file)
        return found if found is not None and found.argv == self._argv and alive(found) else None

    async def _lasts(self, running: Running) -> bool:
        """Wait until the worker ended (False) or hangs (True)."""
        end = asyncio.create_task(ended(running))
        watching = self._watching(self._pulse, running) if self._pulse is not None else {}
        tasks: list[asyncio.Task[object]] = [end, *watching]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if end in done:
                self._log.warning("dns worker %d ended", running.pid)
                return False
            task = done.pop()
            self._log.error("dns worker %d %s and is replaced", running.pid, watching[task])
            self._patience = self._first_patience if task.result() else self._patience.doubled()
            return True
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _watching(self, pulse: Pulse, running: Running) -> dict[asyncio.Task[object], str]:
        """What ends when the worker is to be given up, with the reason. Their results: whether it ever did its work."""
        addresses, domain = listening(running.argv)
        dumb = silent(pulse, running.pid, self._patience)
        idle = useless(pulse, running.pid, addresses, lambda address: unanswered(address, domain), self._patience)
        return {asyncio.create_task(dumb): "gives no sign of life", asyncio.create_task(idle): "leaves queries unanswered"}

    async def _relieve(self, old: Running) -> None:
        """Put a successor beside a worker that hangs, then end that one: it holds its share of the queries until then. Whoever
        stops us meanwhile finds the successor on record and nobody else alive.
        """
        self.hung += 1
        try:
            await self._launch()
        except OSError as error:
            self._log.error("dns worker cannot be started: %s", error)
            self._running = None
        finally:
            await kill(old, GRACE)

    async def _launch(self) -> None:
        """Start a worker, which is ours from then on, and wait until it is ready."""
        running, ready = await self._launcher.launch(self._argv, self._pid_file)
        try:
            write_pid_file(self._pid_file, running)
            self._running = running
            async with asyncio.timeout(READY_TIMEOUT):
                await readable(ready)
        except TimeoutError:
            self._log.warning("dns worker %d is not ready after %.0f s", running.pid, READY_TIMEOUT)
        finally:
            os.close(ready)
