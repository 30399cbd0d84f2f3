"""SqliteStore: the default store, one file on the node's disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_store import worker
from fairway_store.api import Changed, Entry, InSync, Listing, Write
from fairway_store.database import Database
from fairway_store.feed import Commit, Feed
from fairway_store.plan import prepare

T = TypeVar("T")

JOURNAL = 20_000
TAIL = 2_000
LOCK_TIMEOUT = 2.0


class SqliteStore:
    """A `Store` in one SQLite file (WAL, synchronous=FULL). Made by `SqliteStore.open`; belongs to one event loop.

    Promise: the event loop never waits for the disk; commits that are waiting share one sync; after an error (disk full,
    read-only) nothing is half applied and the next call tries again. A cancelled `commit` may still take effect; the watch
    tells.
    """

    def __init__(self, path: Path, journal: int = JOURNAL, tail: int = TAIL, lock_timeout: float = LOCK_TIMEOUT) -> None:
        """Use `open`. `journal` and `tail` bound the changes remembered on disk and in memory; `lock_timeout` is in seconds."""
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[worker.Commit | worker.Read, asyncio.Future[Any]] = {}
        self._worker = worker.Worker(lambda: Database(path, journal, lock_timeout), self._post, f"store {path.name}")
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
        if self._closed:
            raise StoreUnavailable(f"{self._path}: the store is closed")
        future = self._loop.create_future()
        self._waiting[request] = future
        self._worker.submit(request)
        return await future

    def _post(self, results: Sequence[worker.Result]) -> None:
        """On the worker's thread: hand over to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._settle, results)
        except RuntimeError:
            pass  # The loop is gone without `close`; nobody is left to be told.

    def _settle(self, results: Sequence[worker.Result]) -> None:
        """Publish before answering, so that whoever gets revision N can watch from N."""
        for request, value, _ in results:
            if isinstance(request, worker.Commit) and value is not None and value[1]:
                self._feed.publish(value[1])
        for request, value, fault in results:
            future = self._waiting.pop(request)
            if future.cancelled():
                continue
            if fault is not None:
                future.set_exception(fault)
            else:
                future.set_result(value)
