"""Both stores against a model that a reader believes at sight."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fairway_core.errors import ConflictError
from fairway_core.keys import Key
from fairway_store.api import ANY, Delete, InSync, Put, Store, Write
from fairway_store.memory import MemoryStore
from fairway_store.sqlite import SqliteStore

KEYS = st.sampled_from([Key("Pod", "a", "x"), Key("Pod", "b", "x"), Key("Service", "a", "x"), Key("Node", "", "é\U0001f600")])
DOCUMENTS = st.dictionaries(st.sampled_from("pqr"), st.sampled_from([0, 1, "1", None]), max_size=2)
EXPECTED = st.one_of(st.just(ANY), st.integers(0, 8))
WRITES = st.lists(st.one_of(st.builds(Put, KEYS, DOCUMENTS, EXPECTED), st.builds(Delete, KEYS, EXPECTED)), max_size=4)


class Model:
    """A dictionary, and the list of all commits ever made."""

    def __init__(self) -> None:
        self.objects: dict[Key, tuple[int, Any]] = {}
        self.history: list[dict[Key, Any]] = []

    def commit(self, writes: list[Write]) -> bool:
        after = dict(self.objects)
        revision = len(self.history) + 1
        for write in writes:
            have = after.get(write.key)
            if write.expected not in (ANY, have[0] if have else 0):
                return False
            if isinstance(write, Delete):
                after.pop(write.key, None)
            elif have is None or have[1] != write.document:
                after[write.key] = (revision, write.document)
        changes = {}
        for key in self.objects.keys() | after.keys():
            old, new = self.objects.get(key, (0, None))[1], after.get(key, (0, None))[1]
            if old != new:
                changes[key] = new
            elif key in self.objects:
                after[key] = self.objects[key]
        self.objects = after
        if changes:
            self.history.append(changes)
        return True


class Stores(RuleBasedStateMachine):
    """Commits, restarts and watches in any order; a journal of 6 changes makes old watches expire."""

    @initialize()
    def begin(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.model = Model()
        self.memory: Store = MemoryStore()
        self.sqlite: Store = self.open()
        self.watches: list[tuple[AsyncIterator[Any], int]] = []

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 5))

    def open(self) -> SqliteStore:
        store: SqliteStore = self.run(SqliteStore.open(Path(self.folder.name) / "store.db", tail=3))
        return store

    @rule(writes=WRITES)
    def commit(self, writes: list[Write]) -> None:
        accepted = self.model.commit(writes)
        for store in (self.memory, self.sqlite):
            try:
                assert self.run(store.commit(writes)) == len(self.model.history)
            except ConflictError:
                assert not accepted
            else:
                assert accepted

    @rule(batch=st.lists(WRITES, min_size=2, max_size=5))
    def commit_together(self, batch: list[list[Write]]) -> None:
        """Queued in one go, they are committed in the order they were made."""

        async def together(store: Store) -> list[Any]:
            return await asyncio.gather(*map(store.commit, batch), return_exceptions=True)

        wanted = []
        for writes in batch:
            wanted.append(len(self.model.history) if self.model.commit(writes) else None)
            if wanted[-1] is not None:
                wanted[-1] = len(self.model.history)
        for store in (self.memory, self.sqlite):
            results = self.run(together(store))
            assert [None if isinstance(result, ConflictError) else result for result in results] == wanted

    @rule()
    def restart(self) -> None:
        self.run(self.sqlite.close())
        self.sqlite = self.open()

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, len(self.model.history)))
        for store in (self.memory, self.sqlite):
            events = store.watch(start)
            for revision, changes in enumerate(self.model.history[start:], start + 1):
                commit = self.run(anext(events))
                assert {changed.key: changed.entry and changed.entry.document for changed in commit} == changes
                assert {changed.revision for changed in commit} == {revision}
            assert self.run(anext(events)) == InSync(len(self.model.history))
            self.run(events.aclose())  # type: ignore[attr-defined]

    @invariant()
    def same_objects(self) -> None:
        for store in (self.memory, self.sqlite):
            listing = self.run(store.list())
            assert {entry.key: (entry.revision, entry.document) for entry in listing.entries} == self.model.objects
            assert [entry.key for entry in listing.entries] == sorted(self.model.objects)
            assert listing.revision == len(self.model.history)

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.run(self.sqlite.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()
            self.folder.cleanup()


TestStores = Stores.TestCase
TestStores.settings = settings(
    max_examples=40, stateful_step_count=15, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
