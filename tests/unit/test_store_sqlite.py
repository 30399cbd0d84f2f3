"""The SQLite file: what survives, what is refused, and who may have it open."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from fairway_core.errors import ConflictError, StoreUnavailable, UserError
from fairway_core.keys import Key
from fairway_store.api import ABSENT, Delete, Expired, InSync, Put
from fairway_store.database import Database
from fairway_store.memory import MemoryStore
from fairway_store.open import open_store
from fairway_store.plan import prepare
from fairway_store.sqlite import SqliteStore
from fairway_store.worker import Commit, Read, serve

WEB = Key("Service", "shop", "web")


async def test_everything_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "made" / "store.db"
    store = await SqliteStore.open(path)
    for number in range(5):
        await store.commit([Put(WEB, {"n": number})])
    before = await store.list()
    await store.close()
    again = await open_store("sqlite", path)
    assert await again.list() == before
    events = again.watch(2)
    assert [(await anext(events))[0].revision for _ in range(3)] == [3, 4, 5]  # type: ignore[index]
    assert await anext(events) == InSync(5)
    with pytest.raises(ConflictError):
        await again.commit([Put(WEB, {}, ABSENT)])
    await again.close()


async def test_the_journal_stays_bounded_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path, journal=10)
    for number in range(50):
        await store.commit([Put(WEB, {"n": number}), Put(Key("Pod", "shop", "p"), {"n": number})])
    await store.close()
    with closing(sqlite3.connect(path)) as raw:
        assert raw.execute("SELECT count(*), max(revision) FROM journal").fetchone() == (10, 50)
    again = await SqliteStore.open(path)
    with pytest.raises(Expired, match="oldest is 45"):
        await anext(again.watch(44))
    await again.close()


async def test_all_disk_work_happens_on_one_thread_of_its_own(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    threads = {await store._ask(lambda _: threading.get_ident()) for _ in range(5)}
    await store.close()
    assert len(threads) == 1 and threads != {threading.get_ident()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is not a database at all, but it is long enough " * 30, "not a database"),
        (b"SQLite format 3\x00" + b"\xff" * 5000, r"cannot be opened|damaged"),
    ],
)
async def test_a_foreign_or_torn_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "store.db"
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=message) as caught:
        await SqliteStore.open(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


async def filled(path: Path) -> None:
    store = await SqliteStore.open(path)
    await store.commit([Put(Key("Pod", "shop", f"p{number}"), {"text": "x" * 500}) for number in range(200)])
    await store.close()


async def test_text_that_is_no_document_any_more_is_damage_too(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    await store.commit([Put(WEB, {"n": 1})])
    await store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE object SET document = '{\"n\": '")
    connection.close()
    with pytest.raises(StoreUnavailable, match=r"damaged.*Service web") as caught:
        await (await SqliteStore.open(path)).list()
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("damage", ["truncate", "overwrite"])
async def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store.db"
    await filled(path)
    size = path.stat().st_size
    if damage == "truncate":
        os.truncate(path, size // 2 + 100)
    else:
        with path.open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 8192))
    with pytest.raises(StoreUnavailable, match=r"damaged|malformed") as caught:
        await SqliteStore.open(path)
    assert str(path) in str(caught.value)


async def test_another_sqlite_file_and_a_newer_layout_are_refused(tmp_path: Path) -> None:
    other, newer = tmp_path / "other.db", tmp_path / "newer.db"
    with closing(sqlite3.connect(other)) as raw:
        raw.execute("CREATE TABLE person (name TEXT)")
    await filled(newer)
    with closing(sqlite3.connect(newer)) as raw:
        raw.execute("PRAGMA user_version = 9")
    with pytest.raises(StoreUnavailable, match="some other SQLite file"):
        await SqliteStore.open(other)
    with pytest.raises(StoreUnavailable, match="layout 9"):
        await SqliteStore.open(newer)


async def test_a_directory_in_the_way_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        await SqliteStore.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match="file"):
        await SqliteStore.open(tmp_path / "file" / "store.db")


async def test_a_second_owner_is_locked_out_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first = await SqliteStore.open(path)
    with pytest.raises(StoreUnavailable, match="another process has it open"):
        await SqliteStore.open(path, lock_timeout=0.05)
    assert await first.commit([Put(WEB, {})]) == 1
    await first.close()
    second = await SqliteStore.open(path, lock_timeout=0.05)
    assert (await second.list()).revision == 1
    await second.close()


async def test_open_store_knows_its_kinds(tmp_path: Path) -> None:
    assert isinstance(await open_store("memory", ""), MemoryStore)
    with pytest.raises(UserError, match="unknown kind of store 'etcd'; known kinds: sqlite, memory"):
        await open_store("etcd", tmp_path)


def test_a_group_shares_one_transaction_and_keeps_its_members_apart(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db", journal=100, lock_timeout=0.1)
    statements: list[str] = []
    database._live().set_trace_callback(statements.append)
    requests = [Commit(prepare([Put(WEB, {"n": number}, expected)])) for number, expected in enumerate((0, 0, 1, 2, -1))]
    answers = {id(request): (value, fault) for request, value, fault in serve(database, [*requests, Read(Database.revision)])}
    revisions = [answers[id(request)][0] and answers[id(request)][0][0] for request in requests]
    assert revisions == [1, None, 2, 3, 4]
    assert isinstance(answers[id(requests[1])][1], ConflictError)
    # A statement is named again for each of its triggers.
    written = {text for text in statements if text.lstrip().startswith("INSERT INTO change")}
    assert len(written) == 1 and not any("BEGIN IMMEDIATE" in text for text in statements)
    database.close()


def test_a_member_too_large_for_the_disk_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    database = Database(tmp_path / "store.db", journal=100, lock_timeout=0.1)
    database._live().execute("PRAGMA max_page_count = 60")
    small = [Commit(prepare([Put(Key("Pod", "shop", f"p{number}"), {})])) for number in range(3)]
    large = Commit(prepare([Put(WEB, {"text": "x" * 1_000_000})]))
    results = serve(database, [small[0], large, small[1], small[2]])
    assert [(value[0] if value else None) for _, value, _ in results] == [1, None, 2, 3]
    assert isinstance(results[1][2], StoreUnavailable) and "full" in str(results[1][2])
    assert [entry.key.name for entry in database.list(None).entries] == ["p0", "p1", "p2"]
    database.close()


async def test_a_commit_is_shown_before_it_is_durable_and_answered_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, synced = threading.Event(), threading.Event()

    def sync(database: Database) -> None:
        synced.set()
        assert held.wait(10)

    monkeypatch.setattr(Database, "sync", sync)
    store = await SqliteStore.open(tmp_path / "store.db")
    accepted = await store.submit([Put(WEB, {"n": 1})])
    assert accepted.revision == 1
    assert (await anext(store.watch(0)))[0].entry.document == {"n": 1}  # type: ignore[index, union-attr]
    second = asyncio.ensure_future(store.commit([Put(WEB, {"n": 2})]))
    await asyncio.sleep(0.02)
    assert not second.done() and not accepted.durable.done()  # type: ignore[attr-defined]
    held.set()
    await accepted.durable
    assert await second == 2
    nothing = await store.submit([Put(WEB, {"n": 2})])
    assert nothing.revision == 2 and await nothing.durable is not None
    with pytest.raises(ConflictError):
        await store.submit([Put(WEB, {}, ABSENT)])
    await store.close()


async def test_a_failed_sync_is_told_and_the_next_commit_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    await store.commit([Put(WEB, {"n": 1})])
    real = os.fdatasync

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    accepted = await store.submit([Put(WEB, {"n": 2})])
    with pytest.raises(StoreUnavailable, match=r"store\.db: cannot be made durable: .*Input/output"):
        await accepted.durable
    with pytest.raises(StoreUnavailable, match="durable"):
        await store.commit([Put(WEB, {"n": 3})])
    monkeypatch.setattr(os, "fdatasync", real)
    assert await store.commit([Put(WEB, {"n": 4})]) == 4
    await store.close()


async def test_nothing_is_called_durable_behind_a_log_that_could_not_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a failed sync left may be missing on the disk, and at a restart a log ends at its first gap."""
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fdatasync", broken)
        # Nor does it succeed when the connection ends.
        failing.setattr(Database, "close", lambda _database: None)
        with pytest.raises(StoreUnavailable, match="durable"):
            await store.commit([Put(WEB, {"pad": "x" * 500_000})])
    log = path.with_name("store.db-wal")
    assert log.stat().st_size > 500_000
    assert await store.commit([Put(Key("Pod", "shop", "p"), {})]) == 2
    assert log.stat().st_size < 100_000
    await store.close()


async def test_a_long_log_is_folded_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    store = await SqliteStore.open(path)
    for number in range(300):
        await store.commit([Put(Key("Pod", "shop", f"p{number}"), {"pad": "x" * 2000})])
    await store._ask(lambda _: None)
    assert path.stat().st_size > 200 * 2000
    assert path.with_name("store.db-wal").stat().st_size < 12_000_000
    await store.close()


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
async def test_a_key_that_would_be_cut_off_is_refused(tmp_path: Path, name: str) -> None:
    store = await SqliteStore.open(tmp_path / "store.db")
    for write in (Put(Key("Pod", "shop", name), {}), Delete(Key("Pod", "shop", name))):
        with pytest.raises(UserError, match="without NUL"):
            await store.commit([write])
    await store.close()


WRITER = """
import asyncio, os, signal, sys
from fairway_core.keys import Key
from fairway_store.api import Put
from fairway_store.sqlite import SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    number = (await store.list()).revision
    async def write(number):
        revision = await store.commit([Put(Key("Pod", half, f"p{number}"), {"n": number, "pad": "x" * 3000}) for half in "ab"])
        print(revision, number, flush=True)
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(write(number + step) for step in range(3)))
        number += 3
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def run_and_kill(path: Path, after: float, commits: int = 0) -> dict[int, int]:
    """Write until killed, `after` seconds or `commits` later; the acknowledged (revision -> number)."""
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(commits)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    if not commits:
        time.sleep(after)
        child.send_signal(signal.SIGKILL)
    output = child.stdout.read()
    child.wait()
    lines = output.splitlines() if output.endswith("\n") else output.splitlines()[:-1]
    return {int(revision): int(number) for revision, number in map(str.split, lines)}


async def halves(path: Path) -> tuple[dict[int, set[str]], int]:
    """Which halves of each numbered commit are there, and the revision."""
    store = await SqliteStore.open(path)
    listing = await store.list()
    await store.close()
    found: dict[int, set[str]] = {}
    for entry in listing.entries:
        found.setdefault(entry.document["n"], set()).add(entry.key.namespace)
    return found, listing.revision


async def test_kill_9_loses_nothing_acknowledged_and_tears_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: dict[int, int] = {}
    for round_ in range(6):
        acknowledged |= run_and_kill(path, 0.013 * (1 + round_ * 1.7))
        found, revision = await halves(path)
        assert set(acknowledged.values()) <= found.keys()
        assert all(parts == {"a", "b"} for parts in found.values())
        assert max(acknowledged, default=0) <= revision == len(found)
    assert acknowledged


async def test_a_truncated_log_costs_whole_commits_only(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged = run_and_kill(path, 0, commits=30)
    assert len(acknowledged) == 30
    log = path.with_name("store.db-wal")
    assert log.stat().st_size > 50_000
    os.truncate(log, log.stat().st_size * 2 // 3 + 7)
    found, revision = await halves(path)
    assert all(parts == {"a", "b"} for parts in found.values())
    assert 0 < revision == len(found) < max(acknowledged)
    assert sorted(found) == list(range(len(found)))
