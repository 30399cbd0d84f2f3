"""One resource kept equal to the API server's: list, watch, and again, whatever goes wrong in between.

Promise: `replace` gets whole states only, `apply` everything after them in order. A broken or expired watch never empties
anything: what is known stays until a fresh list is complete, and then differs by what has really changed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any, Protocol

from fairway_core.keys import Key
from fairway_store.kubernetes.client import ApiClient
from fairway_store.kubernetes.faults import Ahead, ApiFault, Denied, Gone, NotInstalled, NotOffered, Silent
from fairway_store.kubernetes.protocol import (
    Page,
    WatchDecoder,
    WatchEvent,
    list_query,
    page_of,
    streaming_query,
    watch_query,
)
from fairway_store.kubernetes.prune import prune
from fairway_store.kubernetes.resources import Resource
from fairway_store.kubernetes.timing import Backoff, Timing
from fairway_store.plan import PreparedWrite

AHEAD_TRIES = 3
"""How often a server may say that our version is from the future before we believe that the past was restored."""
SHORT_WATCH = 1.0
"""A watch that ends sooner without having brought anything counts as a failure."""

Documents = Sequence[dict[str, Any]]
Changes = Sequence[tuple[dict[str, Any], bool]]
Kept = Sequence[PreparedWrite]


class Sink(Protocol):
    """Where a resource is kept."""

    def prepare(self, documents: Documents) -> Kept:
        """The form in which documents wait until their list is complete; those without a key are left out."""

    async def replace(self, resource: Resource, kept: Kept) -> None:
        """These are all."""

    async def apply(self, resource: Resource, changes: Changes) -> None:
        """Documents in order, each with whether it is still there."""

    def report(self, resource: Resource, fault: str) -> None:
        """What is wrong with the resource now, in words; empty if nothing is."""


class Reflector:
    """Follows one resource until cancelled."""

    def __init__(
        self,
        resource: Resource,
        client: ApiClient,
        sink: Sink,
        timing: Timing,
        log: logging.Logger,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.required = resource.required
        self._resource = resource
        self._client = client
        self._sink = sink
        self._timing = timing
        self._log = log
        self._chance = chance
        self._backoff = Backoff(timing, chance, time.monotonic)
        self._version = ""
        self._streaming = True
        self._streams = False
        self._ahead = 0
        self.lists = 0
        self.synced = asyncio.Event()
        self._nudged = asyncio.Event()

    async def run(self) -> None:
        """Never returns by itself."""
        while True:
            try:
                if not self._version:
                    await self._sync()
                await self._follow()
            except ApiFault as fault:
                await self._rest(await self._wait_after(fault))
            except Exception as fault:
                # What nobody foresaw about one resource must not end the node's sight of it.
                self._log.exception("following %s failed", self._resource.plural)
                self._version = ""
                await self._rest(await self._wait_after(ApiFault(f"{self._resource.plural}: {type(fault).__name__}: {fault}")))

    async def _rest(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        self._nudged.clear()

    def nudge(self) -> None:
        """Try again now, if it waits after a failure: what failed may work by now."""
        self._nudged.set()

    async def _wait_after(self, fault: ApiFault) -> float:
        """Decide what the fault means for the next attempt; seconds until then."""
        if isinstance(fault, NotInstalled | Denied) and not self._resource.required:
            return await self._do_without(fault)
        if isinstance(fault, Gone):
            self._version = ""
            self._log.info("%s are listed again: %s", self._resource.plural, fault)
        elif isinstance(fault, Ahead):
            self._ahead += 1
            if self._ahead >= AHEAD_TRIES:
                self._version, self._ahead = "", 0
        elif isinstance(fault, NotOffered) and self._version:
            # The server does not understand our version (a restored or another cluster): start over.
            self._version = ""
        else:
            self._sink.report(self._resource, str(fault))
        return self._backoff.delay(fault.retry_after)

    async def _do_without(self, fault: ApiFault) -> float:
        """The node works without the resource. Not installed is no news; a missing permission is, but what was known stays."""
        self._version = ""
        if isinstance(fault, NotInstalled):
            await self._keep([])
        else:
            self._sink.report(self._resource, str(fault))
            self.synced.set()
        return self._timing.probe * (0.5 + self._chance() / 2)

    # List

    async def _sync(self) -> None:
        self.lists += 1
        if self._streaming:
            try:
                await self._streamed_list()
                self._streams = True
                return
            except (NotOffered, Silent) as fault:
                if self._streams and isinstance(fault, Silent):
                    # It has streamed lists before: this is an outage, not a server that does not know how.
                    raise
                self._log.debug("no streaming list of %s: %s", self._resource.plural, fault)
                self._streaming = False
        await self._paged_list()

    async def _keep(self, kept: Kept) -> None:
        await self._sink.replace(self._resource, kept)
        self._sink.report(self._resource, "")
        self.synced.set()

    async def _paged_list(self) -> None:
        # Each page is brought into its final form before the next: little is held, and the loop has its turn in between.
        kept: list[PreparedWrite] = []
        page = Page((), "", "")
        while True:
            page = page_of(await self._client.get(self._resource, list_query(self._timing.page, page.token)), self._resource)
            kept += self._sink.prepare(self._pruned(page.items))
            if not page.token:
                break
        await self._keep(kept)
        self._version = page.version

    async def _streamed_list(self) -> None:
        """The list as events, kept when the closing bookmark is there. Raises NotOffered, ApiFault."""
        collected: dict[Key, PreparedWrite] = {}
        decoder = WatchDecoder(self._resource, "list")
        silence = min(self._timing.silence, self._timing.list_silence)
        stream = self._client.stream(self._resource, streaming_query(self._lifetime()), silence)
        async with aclosing(stream):
            async for data in stream:
                events, fault = decoder.feed(data)
                for event in events:
                    if event.initial_end:
                        await self._keep(list(collected.values()))
                        self._version = event.version
                        return
                    self._collect(event, collected)
                if fault is not None:
                    raise fault
        raise ApiFault(f"list {self._resource.plural}: the stream ended before the list was complete")

    def _collect(self, event: WatchEvent, collected: dict[Key, PreparedWrite]) -> None:
        if event.type == "BOOKMARK":
            # A server that ignores the option starts an ordinary watch, whose bookmarks end nothing.
            raise NotOffered(f"list {self._resource.plural}: the server does not stream lists")
        for write in self._sink.prepare(self._pruned((event.object,))):
            if event.type == "DELETED":
                collected.pop(write.key, None)
            else:
                collected[write.key] = write

    # Watch

    def _lifetime(self) -> int:
        return max(1, int(self._timing.watch * (1 + self._chance())))

    async def _follow(self) -> None:
        """One watch, from where the last one ended. Returns when the server closes it."""
        started = time.monotonic()
        before = self._version
        decoder = WatchDecoder(self._resource)
        query = watch_query(self._version, self._lifetime())
        async with aclosing(self._client.stream(self._resource, query, self._timing.silence)) as stream:
            async for data in stream:
                events, fault = decoder.feed(data)
                await self._take(events)
                if fault is not None:
                    raise fault
        if self._version == before and time.monotonic() - started < SHORT_WATCH:
            raise ApiFault(f"watch {self._resource.plural}: the server ends it at once")

    async def _take(self, events: list[WatchEvent]) -> None:
        if not events:
            return
        changes = [
            (document, event.type != "DELETED")
            for event in events
            if event.type != "BOOKMARK"
            for document in self._pruned((event.object,))
        ]
        if changes:
            await self._sink.apply(self._resource, changes)
        self._version = events[-1].version
        self._ahead = 0
        self._sink.report(self._resource, "")

    def _pruned(self, items: Sequence[Any]) -> list[dict[str, Any]]:
        documents = [prune(self._resource, item) for item in items]
        if None in documents:
            self._log.warning("one of the %s has no name and is left out", self._resource.plural)
        return [document for document in documents if document is not None]
