"""The loop that keeps a node equal to what the store says: store -> World -> compile -> diff -> one transaction -> live.

Promise: no kernel write before the store's first list is complete; a change costs what it concerns; commits that queue up while
one is being carried out, in a cluster also those right after it, are taken together; the event loop is never blocked by a
compile (a thread does it); a failed transaction is retried and reported, and nothing after it is called live before it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from fairway_agent.dataplane import Applied, Dataplane
from fairway_agent.gaps import Gaps
from fairway_agent.live import NFT, LiveRevisions
from fairway_agent.metrics import Metrics
from fairway_agent.pacing import GAP_SECONDS, Pace
from fairway_agent.problems import Problems
from fairway_core.clock import Clock
from fairway_core.codec import decode
from fairway_core.errors import KernelError, UserError
from fairway_core.keys import Key
from fairway_core.world import Change, World
from fairway_store.api import Changed, Entry, Expired, InSync, Store

T = TypeVar("T")

RETRY_SECONDS = 1.0
SEEN_SECONDS = 30.0
SLICE = 200
"""Objects looked at in one go, some ten milliseconds; more make way for others now and then."""
WORLD = "world"
AWAITED = frozenset({"Attachment"})
"""Kinds whose changes somebody waits for: a container is being attached."""


class Subscriber(Protocol):
    """Somebody who follows the world after the rules are live (DNS, the object watch of the API)."""

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Cheap, on the event loop; called once per step in revision order."""


@dataclass(frozen=True, slots=True)
class Step:
    """One move of the world."""

    before: World
    after: World
    touched: frozenset[Key]


class Reconciler:
    """Owns the World. Everything but the dataplane's own work happens on the event loop."""

    def __init__(
        self,
        store: Store,
        dataplane: Dataplane,
        live: LiveRevisions,
        problems: Problems,
        metrics: Metrics,
        clock: Clock,
        log: logging.Logger,
        clustered: bool = False,
        gaps: Gaps | None = None,
        committed: Callable[[int], None] | None = None,
    ) -> None:
        """`clustered`: Pods and EndpointSlices are written by a cluster's controllers, not by this node. `committed` is told the
        revision of each batch of changes that the store hands on after the first list.
        """
        self.world = World(derive_endpoints=not clustered, address_pods=clustered)
        self._store = store
        self._dataplane = dataplane
        self._live = live
        self._problems = problems
        self._metrics = metrics
        self._clock = clock
        self._committed = committed or (lambda _revision: None)
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reconcile")
        self._queue: list[Sequence[Changed]] = []
        self._coming: list[Sequence[Changed]] = []
        self._reached = 0
        self._wake = asyncio.Event()
        # Streams of changes come from clusters; whoever writes to the node's own store waits for it.
        self._pace = Pace(GAP_SECONDS if clustered else 0.0)
        self._subscribers: list[Subscriber] = []
        self._worlds = LiveRevisions([WORLD])
        self._told = self.world
        self._unseen: set[Key] = set()
        self._unapplied = False
        self._verify = False
        self._undecodable: set[Key] = set()
        self.gaps = gaps or Gaps()
        self.synced = asyncio.Event()

    def subscribe(self, subscriber: Subscriber) -> None:
        """Follow every later step. Subscribe before `run` to see the first one, which carries the whole world."""
        self._subscribers.append(subscriber)

    async def seen(self, revision: int) -> bool:
        """Wait until the world is at `revision`, live or not; False if that takes unreasonably long."""
        return await self._worlds.wait(revision, [WORLD], SEEN_SECONDS)

    async def commit_beside(self) -> None:
        """Bring into the kernel what was told to compilers past the world, behind the step that is being worked on, if any.
        Raises KernelError.
        """
        world = self.world
        await self._in_thread(lambda: self._dataplane.step_beside(world))

    def call(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Have it called in the thread of the steps: behind those told of so far, before the next one."""
        return asyncio.get_running_loop().run_in_executor(self._thread, function)

    def request_verify(self) -> None:
        """Compare the kernel in full at the next opportunity: something else may have changed our tables."""
        self._verify = True
        self._pace.press()
        self._wake.set()

    async def run(self) -> None:
        """List, adopt, apply, then follow the store until cancelled."""
        listing = await self._store.list()
        await self._in_thread(self._dataplane.adopt)
        self._take([Changed(entry.key, entry, entry.revision) for entry in listing.entries], listing.revision)
        await self._advance()
        self.synced.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(listing.revision))
            group.create_task(self._loop())

    async def _pump(self, revision: int) -> None:
        while True:
            try:
                async for event in self._store.watch(revision):
                    if isinstance(event, InSync):
                        self._take([], event.revision)
                        revision = event.revision
                    elif event:
                        self._committed(event[-1].revision)
                        self._take(event, event[-1].revision)
                        revision = event[-1].revision
                return
            except Expired:
                revision = await self._relist()

    async def _relist(self) -> int:
        """The watch fell too far behind: compare a fresh list with the world, so that deletions are not missed."""
        listing = await self._store.list()
        present = {entry.key for entry in listing.entries}
        coming = {change.key for batch in (*self._coming, *self._queue) for change in batch if change.entry is not None}
        stored = [key for key in {*self.world.objects, *self._undecodable, *coming} if key not in present]
        gone = [Changed(key, None, listing.revision) for key in stored if not self.world.is_derived_key(key)]
        self._take([*gone, *(Changed(e.key, e, e.revision) for e in listing.entries)], listing.revision)
        return listing.revision

    def _take(self, changes: Sequence[Changed], revision: int) -> None:
        if changes:
            self._queue.append(changes)
        if any(change.key.kind in AWAITED for change in changes):
            self._pace.press()
        self._reached = max(self._reached, revision)
        self._wake.set()

    async def _loop(self) -> None:
        while True:
            await self._wake.wait()
            await self._pace.turn()
            self._wake.clear()
            await self._advance()
            self._pace.done()
            if self._unapplied:
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake.set)

    async def _advance(self) -> None:
        self._coming, self._queue = self._queue, []
        revision = self._reached
        changes = await self._decoded(self._coming)
        before = self.world
        if len(changes) <= SLICE:
            after, touched = before.apply(changes, revision)
        else:
            after, touched = await self._in_thread(partial(before.apply, changes, revision))
        self.world, self._coming = after, []
        self._worlds.advance(WORLD, revision)
        step = Step(before, after, touched)
        if touched or self._unapplied or self._verify or not self.synced.is_set():
            await self._apply(step)
        self._unseen |= touched
        if not self._unapplied:
            self._tell(after)

    def _tell(self, world: World) -> None:
        """What failed steps left untold is told with the first that succeeds: nobody hears of rules that are not in place."""
        before, self._told = self._told, world
        touched, self._unseen = frozenset(self._unseen), set()
        self._live.advance(NFT, world.revision)
        for subscriber in self._subscribers:
            subscriber.follow(before, world, touched)

    async def _apply(self, step: Step) -> None:
        started = self._clock.monotonic()
        verify, self._verify = self._verify, False
        try:
            applied, repaired = await self._in_thread(lambda: self._work(step, verify))
        except KernelError as error:
            self._unapplied = True
            self._verify |= verify
            self._problems.report("nft", f"rules of revision {step.after.revision} are not in place: {error}")
            self._metrics.nft_failures.inc()
            return
        self._unapplied = False
        self._problems.clear("nft")
        self._metrics.observe_step(self._clock.monotonic() - started, applied)
        if repaired:
            self._metrics.repairs.labels("nft").inc(repaired)
            self._log.warning("rules were changed by somebody else and have been put back", extra={"repaired": repaired})

    def _work(self, step: Step, verify: bool) -> tuple[Applied, int]:
        applied = self._dataplane.step(step.before, step.after, step.touched)
        return applied, self._dataplane.verify() if verify else 0

    async def _decoded(self, batches: Sequence[Sequence[Changed]]) -> list[Change]:
        """What can be understood; others on the loop have their turn meanwhile."""
        stored = [change for batch in batches for change in batch]
        found: list[Change] = []
        for start in range(0, len(stored), SLICE):
            if start:
                await asyncio.sleep(0)
            decoded = (self._decode(change.key, change.entry) for change in stored[start : start + SLICE])
            found += [change for change in decoded if change is not None]
        return found

    def _decode(self, key: Key, entry: Entry | None) -> Change | None:
        problem = f"object:{key}"
        self._undecodable.discard(key)
        document = entry.document if entry else None
        self.gaps.see(key, document)
        if document is None:
            self._problems.clear(problem)
            return Change(key, None)
        try:
            value = decode(document)
        except UserError as error:
            # One object that cannot be understood must not stop the node; its last good state stays.
            self._problems.report(problem, str(error), blocking=False)
            self._undecodable.add(key)
            return None
        self._problems.clear(problem)
        return Change(key, value)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Release the thread and the kernel sockets."""
        self._thread.shutdown(wait=True)
        self._dataplane.close()
