"""KubernetesStore: the store contract over an API server, read-only."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, MutableSequence, Sequence
from contextlib import suppress

from fairway_core.codec import key_of
from fairway_core.errors import FairwayError, UserError
from fairway_core.keys import Key
from fairway_store.api import ANY, Changed, Delete, Entry, InSync, Listing, Put, Write
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.client import ApiClient
from fairway_store.kubernetes.reflector import Changes, Documents, Kept, Reflector
from fairway_store.kubernetes.resources import Resource, cluster_resources
from fairway_store.kubernetes.timing import Timing
from fairway_store.memory import JOURNAL, MemoryStore
from fairway_store.plan import PreparedWrite, prepare

Report = Callable[[str, str], None]
"""Called with a kind and what is wrong with following it, in words; empty when it is right again."""


class KubernetesStore:
    """A `Store` filled by one reflector per kind. Belongs to one event loop.

    Revisions are its own, counted from the start of the process: resourceVersions are opaque, and each kind has its own.
    Everything that reads waits until every required kind has been listed once, and a little longer for the others; after
    that an outage leaves the last state in place.
    """

    def __init__(
        self,
        access: Access,
        report: Report,
        log: logging.Logger,
        timing: Timing | None = None,
        resources: Sequence[Resource] | None = None,
        journal: int = JOURNAL,
    ) -> None:
        """Raises UserError if the credentials cannot be used. `start` begins. `journal` bounds what a watch can look back on."""
        timing = timing or Timing()
        self._grace = timing.grace
        self.mirror = MemoryStore(journal)
        self._report = report
        self._log = log
        self._client = ApiClient(access, timing, log)
        given = tuple(resources) if resources is not None else cluster_resources()
        self.reflectors = tuple(Reflector(resource, self._client, self, timing, log) for resource in given)
        self._known: dict[str, set[Key]] = defaultdict(set)
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()

    def start(self) -> None:
        """Begin to follow the API server."""
        self._tasks = [asyncio.create_task(reflector.run()) for reflector in self.reflectors]
        self._tasks.append(asyncio.create_task(self._await_lists()))

    async def _await_lists(self) -> None:
        for reflector in self.reflectors:
            if reflector.required:
                await reflector.synced.wait()
        # A kind the node can do without may fail for ever (the webhook that converts it is away), but not for want of a try now.
        others = [reflector for reflector in self.reflectors if not reflector.synced.is_set()]
        for reflector in others:
            reflector.nudge()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                for reflector in others:
                    await reflector.synced.wait()
        self._ready.set()

    async def list(self, kind: str | None = None) -> Listing:
        """See `Store.list`. Waits for the first list of every kind."""
        await self._ready.wait()
        return await self.mirror.list(kind)

    async def get(self, key: Key) -> Entry | None:
        """See `Store.get`. Waits as `list` does."""
        await self._ready.wait()
        return await self.mirror.get(key)

    def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        """See `Store.watch`."""
        return self.mirror.watch(revision)

    async def commit(self, writes: Sequence[Write]) -> int:
        """Raises UserError: these objects are the API server's."""
        for write in writes:
            raise UserError(f"{write.key} is written through the API server (kubectl), not through Fairway")
        await self._ready.wait()
        return await self.mirror.commit(())

    async def close(self) -> None:
        """See `Store.close`."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()
        await self.mirror.close()
        # Whoever waits for the first list learns that the store is closed.
        self._ready.set()

    # Sink

    def prepare(self, documents: Documents) -> Kept:
        """See `Sink.prepare`."""
        return prepare(self._puts(documents))

    async def replace(self, resource: Resource, kept: Kept) -> None:
        """See `Sink.replace`."""
        keys = {write.key for write in kept}
        gone = sorted(self._known[resource.kind] - keys)
        self._known[resource.kind] = keys
        await self.mirror.commit_prepared([*kept, *(PreparedWrite(key, None, ANY) for key in gone)])

    async def apply(self, resource: Resource, changes: Changes) -> None:
        """See `Sink.apply`."""
        known = self._known[resource.kind]
        writes: MutableSequence[Write] = []
        for document, present in changes:
            for put in self._puts([document]):
                (known.add if present else known.discard)(put.key)
                writes.append(put if present else Delete(put.key))
        await self.mirror.commit(writes)

    def _puts(self, documents: Documents) -> Sequence[Put]:
        puts = []
        for document in documents:
            try:
                puts.append(Put(key_of(document), document))
            except FairwayError as fault:
                self._log.warning("an object is left out: %s", fault)
        return puts

    def report(self, resource: Resource, fault: str) -> None:
        """See `Sink.report`."""
        self._report(resource.kind, fault)
