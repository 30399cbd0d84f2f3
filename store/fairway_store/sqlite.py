"""SqliteStore: the default store, one file on the node's disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_store import worker
from fairway_store.api import Accepted, Changed, Entry, InSync, Listing, Write
from fairway_store.database import Database
from fairway_store.feed import Commit, Feed
from fairway_store.plan import prepare

T = TypeVar("T")

JOURNAL = 20_000
TAIL = 2_000
LOCK_TIMEOUT = 2.0


class SqliteStore:
    """A `Store` in one SQLite file. Made by `SqliteStore.open`; belongs to one event loop.

    Promise: the event loop never waits for the disk; commits that are waiting share one sync; after an error (disk full,
    read-only) nothing is half applied and the next call tries again. A cancelled `commit` may still take effect; the watch
    tells.
    """

    def __init__(self, path: Path, journal: int = JOURNAL, tail: int = TAIL, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Use `open`. `journal` and `tail` bound the changes remembered on disk and in memory; `lock_timeout` is in seconds."""
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[worker.Commit | worker.Read, asyncio.Future[Any]] = {}
        self._unseen: dict[worker.Commit | worker.Read, asyncio.Future[int]] = {}
        show, settle = partial(self._post, self._show), partial(self._post, self._settle)
        self._worker = worker.Worker(lambda: Database(path, journal, lock_timeout), show, settle, f"store {path.name}")
        self._feed = Feed(0, tail, self._journal)
        self._closed = False

    @classmethod
    async def open(
        cls, path: Path | str, journal: int = JOURNAL, tail: int = TAIL, lock_timeout: float = LOCK_TIMEOUT
    ) -> SqliteStore:
        """Open or create the file, and its folder.

        Raises StoreUnavailable naming the file if it is damaged, foreign, written by a newer version, in use or unreachable.
        """
        store = cls(Path(path), journal, tail, lock_timeout)
        store._worker.start()
        try:
            store._feed = Feed(await store._ask(Database.revision), tail, store._journal)
        except BaseException:
            await store.close()
            raise
        return store

    async def list(self, kind: str | None = None) -> Listing:
        """See `Store.list`."""
        return await self._ask(lambda database: database.list(kind))

    def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        """See `Store.watch`."""
        return self._feed.watch(revision)

    async def commit(self, writes: Sequence[Write]) -> int:
        """See `Store.commit`."""
        revision: int
        revision, _ = await self._submit(worker.Commit(prepare(writes)))
        return revision

    async def submit(self, writes: Sequence[Write]) -> Accepted:
        """See `Store.submit`."""
        request = worker.Commit(prepare(writes))
        durable = self._start(request)
        seen = self._unseen[request] = self._loop.create_future()
        return Accepted(await seen, durable)

    async def get(self, key: Key) -> Entry | None:
        """See `Store.get`."""
        return await self._ask(lambda database: database.get(key))

    async def close(self) -> None:
        """See `Store.close`. Commits already under way are finished first."""
        if not self._closed:
            self._closed = True
            self._worker.stop()
        self._feed.close()
        await asyncio.to_thread(self._worker.join)

    async def _journal(self, revision: int) -> Sequence[Commit]:
        return await self._ask(lambda database: database.journal(revision))

    async def _ask(self, question: Callable[[Database], T]) -> T:
        answer: T = await self._submit(worker.Read(question))
        return answer

    async def _submit(self, request: worker.Commit | worker.Read) -> Any:
        return await self._start(request)

    def _start(self, request: worker.Commit | worker.Read) -> asyncio.Future[Any]:
        if self._closed:
            raise StoreUnavailable(f"{self._path}: the store is closed")
        future = self._waiting[request] = self._loop.create_future()
        self._worker.submit(request)
        return future

    def _post(self, call: Callable[[Sequence[worker.Result]], None], results: Sequence[worker.Result]) -> None:
        """On the worker's thread: hand over to the event loop."""
        try:
            self._loop.call_soon_threadsafe(call, results)
        except RuntimeError:
            pass  # The loop is gone without `close`; nobody is left to be told.

    def _show(self, results: Sequence[worker.Result]) -> None:
        """Publish before anybody is answered, so that whoever gets revision N can watch from N."""
        for request, (revision, events), _ in results:
            self._feed.publish(events)
            seen = self._unseen.pop(request, None)
            if seen is not None and not seen.done():
                seen.set_result(revision)

    def _settle(self, results: Sequence[worker.Result]) -> None:
        for request, value, fault in results:
            future = self._waiting.pop(request)
            seen = self._unseen.pop(request, None)
            if seen is not None:
                # It has changed nothing, and whoever submitted it does not know of `future` yet.
                _resolve(seen, value and value[0], fault)
                _resolve(future, value, None)
            else:
                _resolve(future, value, fault)


def _resolve(future: asyncio.Future[Any], value: Any, fault: BaseException | None) -> None:
    if future.cancelled():
        return
    if fault is not None:
        future.set_exception(fault)
    else:
        future.set_result(value)
