"""Watches: a bounded tail of recent commits that any number of watchers read at their own pace.

Watchers pull. There is no queue per watcher, so a slow one costs nothing: when it comes back and the tail has moved on, it reads
what it missed from the journal, and if that has moved on too, it is told to list again. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice

from fairway_store.api import Changed, Expired, InSync

Commit = tuple[Changed, ...]
ReadJournal = Callable[[int], Awaitable[Sequence[Commit]]]

BATCH = 64
"""Commits handed to a watcher at a time, so that it never holds more than that of the tail alive."""


class Feed:
    """Publishes commits of consecutive revisions to watchers."""

    def __init__(self, revision: int, limit: int, journal: ReadJournal) -> None:
        """`limit` bounds the changes kept in memory; `journal(r)` gives some commits from r + 1 on or raises Expired."""
        self._revision = revision
        self._limit = limit
        self._journal = journal
        self._tail: deque[Commit] = deque()
        self._size = 0
        self._closed = False
        self._moved = asyncio.Event()

    @property
    def revision(self) -> int:
        """The last published revision."""
        return self._revision

    @property
    def floor(self) -> int:
        """The oldest revision the tail alone can serve a watch from."""
        return self._revision - len(self._tail)

    def publish(self, commit: Commit) -> None:
        """Append the next commit. The newest one is always kept, whatever its size."""
        self._revision = commit[0].revision
        self._tail.append(commit)
        self._size += len(commit)
        while self._size > self._limit and len(self._tail) > 1:
            self._size -= len(self._tail.popleft())
        self._wake()

    def close(self) -> None:
        """End every watch."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()

    async def watch(self, revision: int) -> AsyncIterator[Commit | InSync]:
        """See `Store.watch`. A revision from the future (another store, an older backup) is Expired as well."""
        if revision > self._revision:
            raise Expired(f"revision {revision} is unknown here, the newest is {self._revision}: list again")
        while not self._closed:
            for commit in await self._after(revision):
                if self._closed:
                    return
                revision = commit[0].revision
                yield commit
            if revision == self._revision and not self._closed:
                # Taken before the yield: a commit published while the watcher is busy must not be slept through.
                moved = self._moved
                yield InSync(revision)
                if revision == self._revision and not self._closed:
                    await moved.wait()

    async def _after(self, revision: int) -> Sequence[Commit]:
        if revision < self.floor:
            return await self._journal(revision)
        skip = revision - self.floor
        return tuple(islice(self._tail, skip, skip + BATCH))
