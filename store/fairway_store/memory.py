"""MemoryStore: the contract without a disk, for tests, laboratories and `store: {kind: memory}`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_store.api import Accepted, Changed, Entry, Expired, InSync, Listing, Write
from fairway_store.feed import Commit, Feed
from fairway_store.plan import PreparedWrite, Stored, events, plan, prepare

JOURNAL = 20_000


class MemoryStore:
    """A `Store` that forgets everything when the process ends. Belongs to one event loop."""

    def __init__(self, journal: int = JOURNAL) -> None:
        """`journal` bounds the changes a watch can look back on."""
        self._objects: dict[Key, Stored] = {}
        self._feed = Feed(0, journal, self._forgotten)
        self._closed = False

    async def list(self, kind: str | None = None) -> Listing:
        """See `Store.list`."""
        self._check()
        keys = sorted(key for key in self._objects if kind in (None, key.kind))
        return Listing(tuple(self._entry(key, self._objects[key]) for key in keys), self._feed.revision)

    def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        """See `Store.watch`."""
        return self._feed.watch(revision)

    async def commit(self, writes: Sequence[Write]) -> int:
        """See `Store.commit`."""
        self._check()
        return await self.commit_prepared(prepare(writes))

    async def commit_prepared(self, writes: Sequence[PreparedWrite]) -> int:
        """`commit` of writes that were turned into text before, a few at a time, so that nobody waits for that of very many."""
        self._check()
        revision = self._feed.revision + 1
        changes = plan(writes, self._objects.get, revision)
        if not changes:
            return self._feed.revision
        for key, text in changes.items():
            if text is None:
                del self._objects[key]
            else:
                self._objects[key] = Stored(revision, text)
        self._feed.publish(events(changes, revision))
        return revision

    async def submit(self, writes: Sequence[Write]) -> Accepted:
        """See `Store.submit`: there is no disk."""
        revision = await self.commit(writes)
        nothing = asyncio.get_running_loop().create_future()
        nothing.set_result(None)
        return Accepted(revision, nothing)

    async def get(self, key: Key) -> Entry | None:
        """See `Store.get`."""
        self._check()
        stored = self._objects.get(key)
        return self._entry(key, stored) if stored else None

    async def close(self) -> None:
        """See `Store.close`."""
        self._closed = True
        self._feed.close()

    def at_rest(self, key: Key) -> Stored | None:
        """The object as it is kept, without copying it."""
        self._check()
        return self._objects.get(key)

    @staticmethod
    def _entry(key: Key, stored: Stored) -> Entry:
        return Entry(key, stored.text, stored.revision)

    def _check(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    async def _forgotten(self, revision: int) -> Sequence[Commit]:
        raise Expired(f"revision {revision} is no longer known, the oldest is {self._feed.floor}: list again")
