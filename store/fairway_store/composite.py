"""CompositeStore: what belongs to the node in a file of its own, the rest from the API server, one sequence of revisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_store.api import ANY, Accepted, Changed, Entry, InSync, Listing, Put, Store, Write
from fairway_store.kubernetes.store import KubernetesStore
from fairway_store.plan import plan, prepare


class CompositeStore:
    """A `Store`. Kinds in `kinds` are durable in `local`; the others are read-only.

    Readers see one mirror of both, so a change of either side is one revision of the same count. Revisions start anew with the
    process; objects do not.
    """

    def __init__(self, local: Store, cluster: KubernetesStore, kinds: frozenset[str]) -> None:
        self._local = local
        self._cluster = cluster
        self._mirror = cluster.mirror
        self._kinds = kinds
        self._writing = asyncio.Lock()

    async def load(self) -> None:
        """Show what `local` holds. Once, before anything is read."""
        entries = (await self._local.list()).entries
        await self._mirror.commit([Put(entry.key, entry.document) for entry in entries if entry.key.kind in self._kinds])

    async def list(self, kind: str | None = None) -> Listing:
        """See `Store.list`; waits for the first list of the cluster's kinds."""
        return await self._cluster.list(kind)

    async def get(self, key: Key) -> Entry | None:
        """See `Store.get`; waits as `list` does."""
        return await self._cluster.get(key)

    def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        """See `Store.watch`."""
        return self._mirror.watch(revision)

    async def commit(self, writes: Sequence[Write]) -> int:
        """See `Store.commit`. Raises UserError for kinds that are the API server's."""
        accepted = await self.submit(writes)
        await accepted.durable
        return accepted.revision

    async def submit(self, writes: Sequence[Write]) -> Accepted:
        """See `Store.submit`. Raises UserError for kinds that are the API server's."""
        for write in writes:
            if write.key.kind not in self._kinds:
                raise UserError(f"{write.key} is written through the API server (kubectl), not through Fairway")
        async with self._writing:
            # Nobody else writes these kinds, so expectations that hold here still hold when the file is written.
            if not plan(prepare(writes), self._mirror.at_rest, 0):
                return await self._mirror.submit(writes)
            local = await self._local.submit([replace(write, expected=ANY) for write in writes])
            return Accepted(await self._mirror.commit(writes), local.durable)

    async def close(self) -> None:
        """See `Store.close`."""
        await self._cluster.close()
        await self._local.close()
