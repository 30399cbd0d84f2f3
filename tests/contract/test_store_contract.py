"""What every store promises, checked on each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fairway_core.errors import ConflictError, StoreUnavailable, UserError
from fairway_core.keys import Key
from fairway_store.api import ABSENT, Changed, Delete, Entry, Expired, InSync, Put, Store
from fairway_store.composite import CompositeStore
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.store import KubernetesStore
from fairway_store.memory import MemoryStore
from fairway_store.sqlite import SqliteStore

WEB = Key("Service", "shop", "web")
API = Key("Service", "shop", "api")
POD = Key("Pod", "shop", "web-1")
JOURNAL = 20


@pytest.fixture(params=["memory", "sqlite", "sqlite-short-tail", "composite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore(journal=JOURNAL)
    elif request.param == "composite":
        made = await composite(tmp_path / "store.db")
    else:
        tail = 1 if request.param == "sqlite-short-tail" else JOURNAL
        made = await SqliteStore.open(tmp_path / "store.db", journal=JOURNAL, tail=tail)
    yield made
    await made.close()


async def composite(path: Path) -> Store:
    """A node's own kinds beside a cluster that has none: everything written is the node's."""
    nothing = KubernetesStore(
        Access(("http://127.0.0.1:1",), "test"),
        lambda kind, fault: None,
        logging.getLogger("test"),
        resources=(),
        journal=JOURNAL,
    )
    made = CompositeStore(await SqliteStore.open(path), nothing, frozenset({"Service", "Pod", "Node"}))
    await made.load()
    nothing.start()
    return made


async def take(events: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(5):
        return [await anext(events) for _ in range(count)]


async def test_a_new_store_is_empty_at_revision_zero(store: Store) -> None:
    listing = await store.list()
    assert (listing.entries, listing.revision) == ((), 0)
    assert await store.get(WEB) is None


async def test_put_get_and_list_sorted_by_key(store: Store) -> None:
    assert await store.commit([Put(WEB, {"n": 1}), Put(POD, {"n": 2})]) == 1
    assert await store.commit([Put(API, {"ü": [None, True, 1.5, {"deep": "\ud800"}]})]) == 2
    pod, api, web = (
        Entry.of(POD, {"n": 2}, 1),
        Entry.of(API, {"ü": [None, True, 1.5, {"deep": "\ud800"}]}, 2),
        Entry.of(WEB, {"n": 1}, 1),
    )
    assert (await store.list()).entries == (pod, api, web)
    assert (await store.list("Service")).entries == (api, web)
    assert (await store.list("Node")).entries == ()
    assert await store.get(API) == api


async def test_a_commit_that_changes_nothing_keeps_the_revision(store: Store) -> None:
    await store.commit([Put(WEB, {"a": 1, "b": 2})])
    assert await store.commit([Put(WEB, {"b": 2, "a": 1})]) == 1
    assert await store.commit([Delete(API)]) == 1
    assert await store.commit([Put(POD, {}), Delete(POD)]) == 1
    assert await store.commit([]) == 1
    assert await store.commit([Put(WEB, {"a": 1, "b": 3})]) == 2


async def test_an_unchanged_object_keeps_its_revision_beside_a_changed_one(store: Store) -> None:
    await store.commit([Put(WEB, {"n": 1})])
    assert await store.commit([Put(WEB, {"n": 1}), Put(API, {})]) == 2
    assert (await store.get(WEB)) == Entry.of(WEB, {"n": 1}, 1)


async def test_expectations_hold_or_nothing_is_written(store: Store) -> None:
    await store.commit([Put(WEB, {"n": 1}, ABSENT)])
    with pytest.raises(ConflictError, match=r"Service/shop/web: already exists"):
        await store.commit([Put(POD, {}), Put(WEB, {"n": 2}, ABSENT)])
    with pytest.raises(ConflictError, match=r"is at revision 1, expected 7"):
        await store.commit([Put(POD, {}), Delete(WEB, 7)])
    with pytest.raises(ConflictError, match=r"Service/shop/api: does not exist, expected revision 1"):
        await store.commit([Put(POD, {}), Delete(API, 1)])
    assert (await store.list()).entries == (Entry.of(WEB, {"n": 1}, 1),)
    assert await store.commit([Put(WEB, {"n": 2}, 1)]) == 2
    assert await store.commit([Delete(WEB, 2)]) == 3
    assert await store.commit([Put(WEB, {"n": 3}, ABSENT)]) == 4


async def test_writes_of_one_commit_see_each_other_in_order(store: Store) -> None:
    assert await store.commit([Put(WEB, {"n": 1}, ABSENT), Put(WEB, {"n": 2}), Delete(WEB), Put(WEB, {"n": 3}, ABSENT)]) == 1
    assert (await store.get(WEB)) == Entry.of(WEB, {"n": 3}, 1)
    with pytest.raises(ConflictError):
        await store.commit([Delete(WEB), Put(WEB, {}, 1)])


@pytest.mark.parametrize("document", [{"x": float("nan")}, {"x": {1, 2}}, {1: 1, "1": 2}, {"x": object()}])
async def test_what_json_cannot_carry_is_refused(store: Store, document: Any) -> None:
    with pytest.raises(UserError, match="not a JSON document"):
        await store.commit([Put(WEB, document)])
    assert (await store.list()).revision == 0


async def test_a_key_that_is_not_text_is_refused(store: Store) -> None:
    with pytest.raises(UserError):
        await store.commit([Put(Key("Pod", "shop", "\ud800"), {})])


async def test_documents_are_snapshots(store: Store) -> None:
    document = {"labels": {"a": "1"}}
    await store.commit([Put(WEB, document)])
    document["labels"]["a"] = "2"
    found = await store.get(WEB)
    assert found is not None
    found.document["labels"]["a"] = "3"
    again = await store.get(WEB)
    assert again is not None and again.document == {"labels": {"a": "1"}}


async def test_a_watch_gets_one_tuple_per_commit_then_in_sync(store: Store) -> None:
    await store.commit([Put(WEB, {"n": 1}), Put(API, {})])
    await store.commit([Delete(WEB), Put(API, {})])
    events = store.watch(0)
    assert await take(events, 3) == [
        (Changed(WEB, Entry.of(WEB, {"n": 1}, 1), 1), Changed(API, Entry.of(API, {}, 1), 1)),
        (Changed(WEB, None, 2),),
        InSync(2),
    ]
    waiting = asyncio.ensure_future(take(events, 2))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    await store.commit([Put(WEB, {"n": 2})])
    assert await waiting == [(Changed(WEB, Entry.of(WEB, {"n": 2}, 3), 3),), InSync(3)]


async def test_a_watch_from_now_is_in_sync_at_once(store: Store) -> None:
    await store.commit([Put(WEB, {})])
    assert await take(store.watch(1), 1) == [InSync(1)]


async def test_list_then_watch_misses_nothing(store: Store) -> None:
    """Writers run while a reader lists and then watches from the listing: together they see every object."""

    async def write(part: int) -> None:
        for number in range(4):
            await store.commit([Put(Key("Pod", "shop", f"p{part}-{number}"), {})])

    writers = [asyncio.ensure_future(write(part)) for part in range(4)]
    await asyncio.sleep(0)
    listing = await store.list()
    seen = [entry.key for entry in listing.entries]
    revision = listing.revision
    async with asyncio.timeout(5):
        async for event in store.watch(listing.revision):
            if isinstance(event, InSync):
                if event.revision == 16:
                    break
                continue
            assert [changed.revision for changed in event] == [revision + 1]
            revision += 1
            seen.extend(changed.key for changed in event)
    await asyncio.gather(*writers)
    assert sorted(seen) == sorted(Key("Pod", "shop", f"p{part}-{number}") for part in range(4) for number in range(4))


async def test_many_watchers_at_their_own_pace(store: Store) -> None:
    watchers = [store.watch(0) for _ in range(20)]
    for watcher in watchers[:10]:
        assert await take(watcher, 1) == [InSync(0)]
    for number in range(JOURNAL - 1):
        await store.commit([Put(WEB, {"n": number})])
    for watcher in watchers:
        revisions = [event[0].revision for event in await take(watcher, JOURNAL - 1)]
        assert revisions == list(range(1, JOURNAL))
        assert await take(watcher, 1) == [InSync(JOURNAL - 1)]


async def test_too_old_a_revision_is_expired_not_skipped(store: Store) -> None:
    slow = store.watch(0)
    assert await take(slow, 1) == [InSync(0)]
    for number in range(JOURNAL * 2):
        await store.commit([Put(WEB, {"n": number})])
    with pytest.raises(Expired, match="list again"):
        await take(slow, 1)
    with pytest.raises(Expired):
        await take(store.watch(JOURNAL - 1), 1)
    events = await take(store.watch(JOURNAL), JOURNAL + 1)
    assert [event[0].revision for event in events[:-1]] == list(range(JOURNAL + 1, 2 * JOURNAL + 1))


async def test_a_commit_larger_than_the_journal_reaches_watchers_whole(store: Store) -> None:
    events = store.watch(0)
    await store.commit([Put(Key("Pod", "shop", f"p{number}"), {}) for number in range(JOURNAL * 3)])
    commit, sync = await take(events, 2)
    assert (len(commit), sync) == (JOURNAL * 3, InSync(1))
    with pytest.raises(Expired):
        await store.commit([Put(WEB, {})])
        await take(store.watch(0), 1)


async def test_a_revision_from_the_future_is_expired(store: Store) -> None:
    with pytest.raises(Expired, match="unknown here"):
        await take(store.watch(5), 1)


async def test_concurrent_commits_succeed_or_fail_each_for_itself(store: Store) -> None:
    results = await asyncio.gather(
        *(store.commit([Put(WEB, {"by": number}, ABSENT), Put(Key("Pod", "shop", f"p{number}"), {})]) for number in range(30)),
        return_exceptions=True,
    )
    won = [number for number, result in enumerate(results) if result == 1]
    assert len(won) == 1
    assert sum(isinstance(result, ConflictError) for result in results) == 29
    assert [entry.key.name for entry in (await store.list()).entries] == [f"p{won[0]}", "web"]


async def test_concurrent_commits_get_revisions_of_their_own(store: Store) -> None:
    revisions = await asyncio.gather(*(store.commit([Put(Key("Pod", "shop", f"p{number}"), {})]) for number in range(15)))
    assert sorted(revisions) == list(range(1, 16))
    for entry in (await store.list()).entries:
        assert entry.revision == revisions[int(entry.key.name[1:])]


async def test_the_revision_of_a_commit_can_be_watched_from_at_once(store: Store) -> None:
    for _ in range(5):
        revision = await store.commit([Put(WEB, {"n": _})])
        assert await take(store.watch(revision), 1) == [InSync(revision)]


async def test_close_ends_watches_and_refuses_calls(store: Store) -> None:
    async def drain() -> list[Any]:
        return [event async for event in store.watch(0)]

    watchers = [asyncio.ensure_future(drain()) for _ in range(3)]
    await asyncio.sleep(0.01)
    await store.close()
    await store.close()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*watchers) == [[InSync(0)]] * 3
    for call in (store.list(), store.get(WEB), store.commit([Put(WEB, {})])):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call


async def test_a_cancelled_caller_disturbs_nobody(store: Store) -> None:
    tasks = [asyncio.ensure_future(store.commit([Put(Key("Pod", "shop", f"p{number}"), {})])) for number in range(6)]
    await asyncio.sleep(0)
    tasks[2].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) >= 5
    assert await store.commit([Put(WEB, {})]) in (6, 7)
