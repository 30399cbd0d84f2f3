"""Work beside the event loop: on threads, and after the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, TypeVarTuple, cast

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
        return await _over(asyncio.get_running_loop().run_in_executor(self._pool, work, *args))

    async def make(self, work: Callable[[], T]) -> T:
        """`run` for a step of making a link."""
        return await _over(asyncio.get_running_loop().run_in_executor(self._makers, work))

    async def beside(self, work: Callable[[], None], other: Coroutine[Any, Any, T]) -> T:
        """`make` while `other` goes on; the value of `other` when both are over. Of two errors its own is raised.

        `other` comes first, so that what it waits for is under way before a thread wants its turn of the interpreter.
        """
        value, done = await asyncio.gather(other, self.make(work), return_exceptions=True)
        if isinstance(value, BaseException):
            raise value
        if isinstance(done, BaseException):
            raise done
        return cast("T", value)


async def _over(future: asyncio.Future[T]) -> T:
    """The result, when it is there; a cancellation is passed on after that."""
    try:
        await asyncio.wait({future})
    except asyncio.CancelledError:
        await asyncio.wait({future})
        raise
    return future.result()


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
