"""Objects as the API serves them: read, follow, apply, delete. No HTTP here."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fairway_agent.admission import admit, ranges_from
from fairway_agent.disputes import refuse_disputes
from fairway_agent.reconcile import Reconciler
from fairway_core.codec import encode_slice, key_of
from fairway_core.documents import check_document, with_namespace
from fairway_core.errors import ConflictError, NotFoundError, UserError
from fairway_core.keys import Key
from fairway_core.model import EndpointSlice
from fairway_core.selectors import Selector
from fairway_core.world import KIND, World, is_derived
from fairway_store.api import ANY, Delete, Document, Put, Store, Write

T = TypeVar("T")
COMMIT_TRIES = 5
FOLLOW_LIMIT = 10_000
SLICE = 50
"""Objects handled at a time: about 5 ms."""


@dataclass(frozen=True, slots=True)
class Result:
    """What an apply or delete did to one object."""

    key: Key
    action: str
    before: Document | None = None
    after: Document | None = None


class Objects:
    """Promise: apply and delete change everything or nothing, and never overwrite a change they did not see."""

    def __init__(self, store: Store, reconciler: Reconciler, service_cidrs: Sequence[str], read_only: bool = False) -> None:
        """`read_only`: objects are the API server's, and nothing is applied or deleted here."""
        self._store = store
        self._reconciler = reconciler
        self._cidrs = tuple(service_cidrs)
        self._read_only = read_only
        self._followers: set[asyncio.Queue[tuple[World, frozenset[Key]] | None]] = set()
        self._applying = asyncio.Lock()
        reconciler.subscribe(self)

    async def select(self, kind: str, namespace: str | None, selector: Selector) -> tuple[int, list[Document]]:
        """Documents of a kind, sorted by key, and the revision they are of."""
        listing = await self._store.list(kind)
        here = [entry for entry in listing.entries if namespace in (None, entry.key.namespace)]
        found = {entry.key: entry.document async for entry in _unhurried(here)}
        found.update((key, document) for key, document in self._derived(kind).items() if namespace in (None, key.namespace))
        return listing.revision, [document for _, document in sorted(found.items()) if selector.matches(_labels(document))]

    def _derived(self, kind: str) -> dict[Key, Document]:
        if kind != "EndpointSlice":
            return {}
        slices = self._reconciler.world.at(EndpointSlice, KIND, kind)
        return {item.meta.key(kind): encode_slice(item) for item in slices if is_derived(item)}

    async def get(self, key: Key) -> tuple[int, Document]:
        """One document. Raises NotFoundError."""
        document = await self._document(key)
        if document is None:
            raise NotFoundError(f"{key} does not exist")
        return self._reconciler.world.revision, document

    async def _document(self, key: Key) -> Document | None:
        entry = await self._store.get(key)
        if entry is not None:
            return entry.document
        item = self._reconciler.world.get(key)
        return encode_slice(item) if isinstance(item, EndpointSlice) and is_derived(item) else None

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        for queue in list(self._followers):
            if queue.qsize() >= FOLLOW_LIMIT:
                # A client that does not read is cut off rather than kept in memory.
                queue.put_nowait(None)
                self._followers.discard(queue)
            else:
                queue.put_nowait((after, touched))

    async def watch(self, kind: str, namespace: str | None, selector: Selector) -> AsyncGenerator[dict[str, Any], None]:
        """The list as PUT events, a SYNC, then every change; ends if the client falls far behind."""
        queue: asyncio.Queue[tuple[World, frozenset[Key]] | None] = asyncio.Queue()
        self._followers.add(queue)
        try:
            revision, documents = await self.select(kind, namespace, selector)
            shown = {key_of(document) for document in documents}
            for document in documents:
                yield {"type": "PUT", "document": document, "revision": revision}
            yield {"type": "SYNC", "revision": revision}
            while (event := await queue.get()) is not None:
                after, touched = event
                for key in sorted(key for key in touched if key.kind == kind and namespace in (None, key.namespace)):
                    change = await self._event(key, after.revision, selector)
                    # What the client has never seen need not be taken away from it.
                    if change["type"] == "PUT" or key in shown:
                        yield change
                    shown.add(key) if change["type"] == "PUT" else shown.discard(key)
        finally:
            self._followers.discard(queue)

    async def _event(self, key: Key, revision: int, selector: Selector) -> dict[str, Any]:
        document = await self._document(key)
        if document is None or not selector.matches(_labels(document)):
            return {"type": "DELETE", "key": key_json(key), "revision": revision}
        return {"type": "PUT", "document": document, "revision": revision}

    async def apply(self, documents: Sequence[Document], dry_run: bool) -> tuple[int, list[Result]]:
        """Create or replace all of `documents`. Raises UserError, ConflictError; then nothing has changed."""
        self._refuse_read_only()
        async for document in _unhurried(documents):
            check_document(document)
        documents = [with_namespace(document) for document in documents]
        keys = [key_of(document) for document in documents]
        doubled = next((key for key, times in Counter(keys).items() if times > 1), None)
        if doubled is not None:
            raise UserError(f"{doubled} is given more than once")
        # One at a time: two that give addresses to different services would not meet in any expectation of the store.
        async with self._applying:
            return await self._commit(dict(zip(keys, documents, strict=True)), dry_run)

    async def _commit(self, documents: Mapping[Key, Document], dry_run: bool) -> tuple[int, list[Result]]:
        for _attempt in range(COMMIT_TRIES):
            refuse_disputes(self._reconciler.world, documents)
            revision, results, writes = await self._plan(documents)
            if dry_run or not writes:
                return revision, results
            try:
                revision = await self._store.commit(writes)
                # The next apply must find in the world what this one gave out.
                await self._reconciler.seen(revision)
                return revision, results
            except ConflictError:
                # Somebody else wrote one of them in between; look again.
                continue
        raise ConflictError("the objects keep changing while they are applied; nothing was changed")

    async def _plan(self, documents: Mapping[Key, Document]) -> tuple[int, list[Result], list[Write]]:
        services = [document for key, document in documents.items() if key.kind == "Service"]
        ranges = ranges_from(self._cidrs, self._reconciler.world, services)
        results: list[Result] = []
        writes: list[Write] = []
        async for key, document in _unhurried(documents.items()):
            entry = await self._store.get(key)
            before = entry.document if entry else None
            after = admit(document, before, ranges, running=self._attached(key))
            if after == before:
                results.append(Result(key, "unchanged", before, after))
                continue
            results.append(Result(key, "configured" if entry else "created", before, after))
            writes.append(Put(key, after, entry.revision if entry else 0))
        return self._reconciler.world.revision, results, writes

    async def delete(self, keys: Sequence[Key]) -> tuple[int, list[Result]]:
        """Remove all of `keys`; a missing one is reported, not an error. Raises ConflictError for an attached pod."""
        self._refuse_read_only()
        results: list[Result] = []
        for key in keys:
            self._refuse_attached(key)
            entry = await self._store.get(key)
            results.append(Result(key, "deleted" if entry else "absent", entry.document if entry else None))
        writes = [Delete(result.key, ANY) for result in results if result.action == "deleted"]
        revision = await self._store.commit(writes) if writes else self._reconciler.world.revision
        return revision, results

    def _refuse_read_only(self) -> None:
        if self._read_only:
            raise UserError("this node follows a Kubernetes API server: objects are written there (kubectl), not through Fairway")

    def _refuse_attached(self, key: Key) -> None:
        if key.kind == "Attachment":
            raise ConflictError(f"{key} is the record of a live container interface; it goes with the container (CNI DEL)")
        if self._attached(key):
            raise ConflictError(f"{key} has a live container interface; remove the container instead")

    def _attached(self, key: Key) -> bool:
        return key.kind == "Pod" and bool(self._reconciler.world.keys_at("attachment-pod", key.namespace, key.name))


async def _unhurried(items: Iterable[T]) -> AsyncIterator[T]:
    """The items; the event loop gets its turn after each slice, so that a long apply delays nobody else."""
    for count, item in enumerate(items, 1):
        yield item
        if count % SLICE == 0:
            await asyncio.sleep(0)


def _labels(document: Document) -> Mapping[str, str]:
    return (document.get("metadata") or {}).get("labels") or {}


def key_json(key: Key) -> dict[str, str]:
    """A key as the API writes it."""
    return {"kind": key.kind, "namespace": key.namespace, "name": key.name}
