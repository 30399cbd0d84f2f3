"""What the CNI verbs need of the agent: the world, and commits that are live when they return."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fairway_agent.live import DNS, NFT, LiveRevisions
from fairway_agent.reconcile import Reconciler
from fairway_agent.status import Status
from fairway_core.errors import KernelError, StoreUnavailable
from fairway_core.world import World
from fairway_store.api import Store, Write

NFT_TIMEOUT = 30.0
DNS_TIMEOUT = 1.0


class AgentControl:
    """Rules must be live before a container gets its link; names are waited for, but a dead DNS worker delays nobody for long."""

    def __init__(self, store: Store, reconciler: Reconciler, live: LiveRevisions, status: Status, log: logging.Logger) -> None:
        self._store = store
        self._reconciler = reconciler
        self._live = live
        self._status = status
        self._log = log

    def world(self) -> World:
        """The current world."""
        return self._reconciler.world

    def not_ready(self) -> str:
        """Why a container should not be attached now; empty if it can be."""
        return "; ".join(self._status.reasons())

    async def commit(self, writes: Sequence[Write]) -> int:
        """Store `writes` and wait until they are live in nft, and in DNS if it keeps up. Raises StoreUnavailable, KernelError."""
        if not self._reconciler.synced.is_set():
            raise StoreUnavailable("the agent is starting: the first state is not live yet")
        revision = await self._store.commit(writes)
        if not await self._live.wait(revision, [NFT], NFT_TIMEOUT):
            raise KernelError(110, f"bring revision {revision} live in nft", "the kernel did not take it in time")
        if not await self._live.wait(revision, [DNS], DNS_TIMEOUT):
            self._log.warning("names lag behind", extra={"revision": revision, "live": self._live.snapshot()})
        return revision

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        """Store `writes` durably without waiting for anything else."""
        return await self._store.commit(writes)
