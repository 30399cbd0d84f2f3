"""What the CNI verbs need of the agent: the world, and commits that are live when they return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from fairway_agent.live import DNS, NFT, LiveRevisions
from fairway_agent.reconcile import Reconciler
from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_core.model import Pod
from fairway_core.world import World
from fairway_store.api import Entry, Store, Write

NFT_TIMEOUT = 30.0
POD_TIMEOUT = 10.0
"""How long the watch may lag behind kubelet, which learns of a Pod from the same API server."""
DNS_TIMEOUT = 1.0


class AgentControl:
    """Implements `fairway_cni.control.Control`.

    Rules must be live before a container gets its link. Names are waited for too, but a dead DNS worker delays nobody for long:
    a container without names is better than none.
    """

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        live: LiveRevisions,
        not_ready: Callable[[], str],
        log: logging.Logger,
        owns_pods: bool = True,
    ) -> None:
        self._store = store
        self._reconciler = reconciler
        self._live = live
        self._not_ready = not_ready
        self._log = log
        self._owns_pods = owns_pods
        self._moved = asyncio.Event()
        reconciler.subscribe(self)

    @property
    def owns_pods(self) -> bool:
        return self._owns_pods

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Wake whoever waits for a Pod."""
        if any(key.kind == "Pod" for key in touched):
            self._moved.set()
            self._moved = asyncio.Event()

    async def expect_pod(self, key: Key, uid: str) -> None:
        """See `Control.expect_pod`."""
        if self._owns_pods:
            return
        try:
            async with asyncio.timeout(POD_TIMEOUT):
                while not _is(self.world().declared_pod(key), uid):
                    await self._moved.wait()
        except TimeoutError:
            raise StoreUnavailable(f"the API server has not shown {key} (uid {uid or 'any'}) within {POD_TIMEOUT:g} s") from None

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
        return revision

    async def named(self, revision: int) -> None:
        if not await self._live.wait(revision, [DNS], DNS_TIMEOUT):
            self._log.warning("names lag behind", extra={"revision": revision, "live": self._live.snapshot()})

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        return await self._store.commit(writes)


def _is(pod: Pod | None, uid: str) -> bool:
    """Whether it is the pod that is being started: one of that name may be an older one that has not gone yet."""
    return pod is not None and (not uid or pod.known_as(uid))
