"""A control without agent and kernel: a memory store whose commits are live at once, or when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fairway_core.codec import decode
from fairway_core.errors import StoreUnavailable
from fairway_core.keys import Key
from fairway_core.world import Change, World
from fairway_store.api import Entry, Put, Write
from fairway_store.memory import MemoryStore


class FakeControl:
    """A `Control`. `late` makes commits time out after they are stored; `fault` is raised instead of storing anything."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.reason = ""
        self.owns_pods = True
        self.late = False
        self.fault: Exception | None = None
        self.log: list[str] = []
        self._world = World()

    def world(self) -> World:
        return self._world

    async def expect_pod(self, key: Key, uid: str) -> None:
        if not self.owns_pods and self._world.declared_pod(key) is None:
            raise StoreUnavailable(f"{key} is not known")

    async def entry(self, key: Key) -> Entry | None:
        return await self.store.get(key)

    async def commit(self, writes: Sequence[Write]) -> int:
        revision = await self._store(writes)
        if self.late:
            raise TimeoutError(f"revision {revision} is not live")
        return revision

    async def named(self, revision: int) -> None:
        self.log.append(f"named {revision}")

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        return await self._store(writes)

    def not_ready(self) -> str:
        return self.reason

    async def _store(self, writes: Sequence[Write]) -> int:
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        revision = await self.store.commit(writes)
        changes = [Change(item.key, decode(item.document) if isinstance(item, Put) else None) for item in writes]
        self._world, _touched = self._world.apply(changes, revision)
        self.log += [f"{type(item).__name__.lower()} {item.key}" for item in writes]
        return revision
