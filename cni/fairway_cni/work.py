"""Work beside the event loop: on threads, and after the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar, TypeVarTuple, cast

THREADS = 64
"""Link work at once. Deletions wait in the kernel and are coalesced, so that many waiting together are cheaper than a few."""

MAKERS = 2
"""Links made at once. The kernel makes one at a time (rtnl_mutex) and the interpreter runs one thread at a time, so more cost a
quarter more of the processor for the same work; with two, one works while the other waits for an IPv6 address."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class WorkThreads:
    """Threads for blocking work."""

    def __init__(self, number: int = THREADS, makers: int = MAKERS) -> None:
        self._pool = ThreadPoolExecutor(number, "cni")
        self._makers = ThreadPoolExecutor(makers, "wire")

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run blocking work. A cancelled caller learns of it when the work is over: undoing must not race with doing."""
        return await Job(self._pool, partial(work, *args)).over()

    async def make(self, work: Callable[[], T]) -> T:
        """`run` for a step of making a link."""
        return await Job(self._makers, work).over()

    async def beside(self, work: Callable[[], None], other: Coroutine[Any, Any, T]) -> T:
        """`make` while `other` goes on; the value of `other` when both are over. Of two errors its own is raised.

        `other` comes first, so that what it waits for is under way before a thread wants its turn of the interpreter.
        """
        jobs: list[Job[None]] = []

        def begin() -> None:
            jobs.append(Job(self._makers, work))

        handle = asyncio.get_running_loop().call_soon(begin)
        try:
            value = await other
        except BaseException:
            handle.cancel()
            for job in jobs:
                with suppress(Exception):
                    await job.over()
            raise
        if not jobs:
            # `other` waited for nothing.
            handle.cancel()
            begin()
        await jobs[0].over()
        return value


class Job(Generic[T]):
    """Work on a thread of `pool`, begun when this is made. Belongs to the event loop it was made on."""

    def __init__(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> None:
        self._loop = asyncio.get_running_loop()
        self._outcome: tuple[T, None] | tuple[None, BaseException] | None = None
        self._waiter: asyncio.Future[None] = self._loop.create_future()
        pool.submit(self._carry_out, work)

    def _carry_out(self, work: Callable[[], T]) -> None:
        outcome: tuple[T, None] | tuple[None, BaseException]
        try:
            outcome = work(), None
        except BaseException as fault:
            outcome = None, fault
        self._loop.call_soon_threadsafe(self._settle, outcome)

    def _settle(self, outcome: tuple[T, None] | tuple[None, BaseException]) -> None:
        self._outcome = outcome
        if not self._waiter.done():
            self._waiter.set_result(None)

    async def over(self) -> T:
        """The result, when it is there; a cancellation is passed on after that, and not to the work."""
        cancelled: asyncio.CancelledError | None = None
        while self._outcome is None:
            try:
                await self._waiter
            except asyncio.CancelledError as fault:
                cancelled, self._waiter = fault, self._loop.create_future()
        if cancelled is not None:
            raise cancelled
        value, error = self._outcome
        if error is not None:
            raise error
        return cast("T", value)


class Background:
    """Tasks that nobody awaits; kept until they end, for the event loop alone would forget them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task. It must not raise."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def drain(self) -> None:
        """Wait for all of them, and for those that start meanwhile."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
