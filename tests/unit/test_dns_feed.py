"""The zone feed and its clients over a real unix socket."""

from __future__ import annotations

import asyncio
import gc
import logging
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from fairway_core.clock import FakeClock
from fairway_core.errors import ConflictError
from fairway_dns.client import FeedClient
from fairway_dns.counters import Counters
from fairway_dns.feed import BACKLOG, ZoneFeed
from fairway_dns.protocol import VERSION, Begin, Chunk, Delta, End, Frame, FrameReader, Hello, decode, encode
from fairway_dns.reports import Stats
from fairway_dns.state import StateFile
from fairway_dns.table import Table
from fairway_dns.zone import Record, Zone, ZoneDelta

LOG = logging.getLogger("test")
ONE, TWO = Record("a.x", "A", "10.0.0.1"), Record("b.x", "A", "10.0.0.2")


@asynccontextmanager
async def feeding(path: Path) -> AsyncIterator[ZoneFeed]:
    feed = ZoneFeed(path)
    await feed.start()
    try:
        yield feed
    finally:
        await feed.close()


@asynccontextmanager
async def client(path: Path, counters: Counters | None = None, state: StateFile | None = None) -> AsyncIterator[Table]:
    table = Table(Zone)
    parts = table, state, lambda: Stats((counters or Counters()).values), LOG, lambda: iter(())
    task = asyncio.create_task(FeedClient(path, *parts).run())
    try:
        yield table
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def held(table: Table) -> set[str]:
    return {data for _key, _type, data, _scope in table.zone.records()}


async def until(condition: object, seconds: float = 3.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # type: ignore[operator]  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_snapshot_then_deltas_each_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed, client(path) as table:
        feed.reset({ONE}, 5)
        assert await feed.wait_acked(5, 2)
        assert (held(table), table.zone.revision) == ({"10.0.0.1"}, 5)
        feed.publish(ZoneDelta(frozenset({TWO}), frozenset({ONE})), 6)
        assert await feed.wait_acked(6, 2)
        assert held(table) == {"10.0.0.2"}
        feed.publish(ZoneDelta(), 9)
        assert await feed.wait_acked(9, 2)
        assert (table.zone.revision, feed.acked()) == (9, 9)
        assert not await feed.wait_acked(10, 0.05)


async def test_a_table_is_not_gone_through_for_garbage_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    records = frozenset(Record(f"n{n}.x", "A", "10.0.0.1") for n in range(3000))
    before = gc.get_threshold()
    # As in a worker; only the number of young collections says when the next older generation is looked through.
    gc.set_threshold(1000, 1_000_000, 1_000_000)
    try:
        async with feeding(path) as feed, client(path) as table:
            gc.collect()
            feed.reset(records, 5)
            assert await feed.wait_acked(5, 5)
            nodes = {id(node) for node in table.zone._nodes.values()}
            young = [one for generation in (0, 1) for one in gc.get_objects(generation)]
            assert not [one for one in young if id(one) in nodes]
    finally:
        gc.set_threshold(*before)


async def test_nothing_is_sent_before_there_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed, client(path) as table:
        await until(lambda: feed.workers())
        await asyncio.sleep(0.05)
        assert table.zone.revision is None
        assert feed.acked() is None
        feed.publish(ZoneDelta(add=frozenset({ONE})), 1)
        assert await feed.wait_acked(1, 2)
        assert held(table) == {"10.0.0.1"}


async def test_the_slowest_worker_counts(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed:
        feed.reset({ONE}, 5)
        assert not await feed.wait_acked(5, 0.02)
        async with client(path):
            assert await feed.wait_acked(5, 2)
            _reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(encode(Hello(VERSION, 1, None)))
            await until(lambda: len(feed.workers()) == 2)
            assert feed.acked() is None
            assert not await feed.wait_acked(5, 0.02)
            writer.close()
            await until(lambda: feed.acked() == 5)
        await until(lambda: not feed.workers())
        assert feed.acked() is None


async def test_a_slow_worker_gets_a_snapshot_instead_of_a_backlog(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed:
        feed.reset(frozenset(), 0)
        reader, writer = await asyncio.open_unix_connection(str(path), limit=1024)
        writer.write(encode(Hello(VERSION, 7, None)))
        await until(lambda: feed.workers())
        many = 0
        for revision in range(1, 1200):
            add = frozenset(Record(f"n{revision}-{n}.x", "A", "10.0.0.1") for n in range(20))
            feed.publish(ZoneDelta(add=add), revision)
            many += 1
            await asyncio.sleep(0)
        frames: list[Frame] = []
        cutter = FrameReader()
        async with asyncio.timeout(5):
            while not (frames and isinstance(frames[-1], End | Delta) and frames[-1].revision == 1199):
                frames += [decode(body) for body in cutter.feed(await reader.read(1 << 16))]
        assert sum(isinstance(frame, Delta) for frame in frames) < many - BACKLOG
        assert sum(isinstance(frame, Begin) for frame in frames) >= 2
        table = Table(Zone)
        for frame in frames:
            table.take(frame)
        assert len(table.zone) == 1199 * 20
        assert all(len(frame.records) <= 500 for frame in frames if isinstance(frame, Chunk))
        writer.close()


async def test_a_large_change_travels_as_a_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed:
        feed.reset({ONE}, 1)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(encode(Hello(VERSION, 7, None)))
        cutter, frames = FrameReader(), list[Frame]()
        feed.publish(ZoneDelta(add=frozenset({TWO})), 2)
        await until(lambda: feed.workers())
        feed.publish(ZoneDelta(add=frozenset(Record(f"n{n}.x", "A", "10.0.0.1") for n in range(2500))), 3)
        async with asyncio.timeout(5):
            while not (frames and frames[-1] == End(3)):
                frames += [decode(body) for body in cutter.feed(await reader.read(1 << 16))]
        assert sum(len(frame.records) for frame in frames if isinstance(frame, Chunk)) >= 2502
        assert not any(isinstance(frame, Delta) and len(frame.delta) > 2000 for frame in frames)
        writer.close()


async def test_a_worker_serves_on_without_the_agent_and_takes_the_next_table(tmp_path: Path) -> None:
    path = tmp_path / "feed.sock"
    async with client(path) as table:
        async with feeding(path) as feed:
            feed.reset({ONE}, 5)
            assert await feed.wait_acked(5, 2)
        await asyncio.sleep(0.1)
        assert held(table) == {"10.0.0.1"}
        async with feeding(path) as feed:
            await until(lambda: feed.workers())
            assert held(table) == {"10.0.0.1"}
            feed.reset({TWO}, 2)
            assert await feed.wait_acked(2, 2)
            assert held(table) == {"10.0.0.2"}


async def test_counters_reach_the_agent(tmp_path: Path) -> None:
    path, counters = tmp_path / "feed.sock", Counters()
    counters.query(1, "udp")
    async with feeding(path) as feed, client(path, counters):
        await until(lambda: feed.workers() and feed.workers()[0].counters)
        assert feed.workers()[0].counters == {"queries:A": 1, "transport:udp": 1}


async def test_a_client_leaves_a_state_file_that_gives_the_same_table(tmp_path: Path) -> None:
    path, clock = tmp_path / "feed.sock", FakeClock()
    state = StateFile(tmp_path / "zone", clock)
    async with feeding(path) as feed, client(path, state=state) as table:
        feed.reset({ONE}, 5)
        assert await feed.wait_acked(5, 2)
        clock.advance(2)
        feed.publish(ZoneDelta(add=frozenset({TWO})), 6)
        assert await feed.wait_acked(6, 2)
        loaded = Table(Zone)
        for frame in StateFile(tmp_path / "zone", clock).load():
            loaded.take(frame)
        assert (set(loaded.zone.records()), loaded.zone.revision) == (set(table.zone.records()), 6)


async def test_the_socket_is_private_and_has_one_owner(tmp_path: Path) -> None:
    path = tmp_path / "run" / "feed.sock"
    async with feeding(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with pytest.raises(ConflictError):
            await ZoneFeed(path).start()
    assert not path.exists()
    feed = ZoneFeed(path)
    await feed.start()
    await feed.close()


@pytest.mark.parametrize("first", [encode(Hello(99, 1, None)), encode(Begin(1)), b"\0\0\0\1x", b"\xff\xff\xff\xff"])
async def test_strangers_are_sent_away(tmp_path: Path, first: bytes) -> None:
    path = tmp_path / "feed.sock"
    async with feeding(path) as feed:
        feed.reset({ONE}, 1)
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(first)
        assert await asyncio.wait_for(reader.read(), 2) == b""
        assert feed.workers() == ()
        writer.close()
