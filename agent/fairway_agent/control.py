"""What the CNI verbs need of the agent: the world, and commits that are live when they return."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fairway_agent.live import DNS, NFT, LiveRevisions
from fairway_agent.reconcile import Reconciler
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_store.api import Entry, Store, Write

NFT_TIMEOUT = 30.0
DNS_TIMEOUT = 1.0


class AgentControl:
    """Implements `fairway_cni.control.Control`.

    Rules must be live before a container gets its link. Names are waited for too, but a dead DNS worker delays nobody for long:
    a container without names is better than none.
    """

    def __init__(
        self, store: Store, reconciler: Reconciler, live: LiveRevisions, not_ready: Callable[[], str], log: logging.Logger
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._live = live
        self._not_ready = not_ready
        self._log = log

    def world(self) -> World:
        return self._reconciler.world

    def not_ready(self) -> str:
        return self._not_ready()

    async def entry(self, key: Key) -> Entry | None:
        return await self._store.get(key)

    async def commit(self, writes: Sequence[Write]) -> int:
        revision = await self._store.commit(writes)
        if not await self._live.wait(revision, [NFT], NFT_TIMEOUT):
            raise TimeoutError(f"revision {revision} is stored, but its rules are not live after {NFT_TIMEOUT:g} s")
        if not await self._live.wait(revision, [DNS], DNS_TIMEOUT):
            self._log.warning("names lag behind", extra={"revision": revision, "live": self._live.snapshot()})
        return revision

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        return await self._store.commit(writes)
