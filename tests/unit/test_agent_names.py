"""Names are compiled beside the loop, told in order, and nobody waits for what takes long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent_rig import LOG, Rig, pod, service

from fairway_agent.live import DNS, LiveRevisions
from fairway_agent.names import SMALL, Names
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.compile import ZoneCompiler
from fairway_dns.feed import ZoneFeed
from fairway_dns.viewcompile import ViewCompiler, ViewRules
from fairway_dns.views import ViewDelta
from fairway_store.api import Changed, Delete, Expired, InSync
from fairway_store.memory import MemoryStore


class SlowViews(ViewCompiler):
    """Takes as long as the test wants for what is more than one object, wherever that is done."""

    def __init__(self) -> None:
        super().__init__(ViewRules())
        self.begun, self.go, self.broken = threading.Event(), threading.Event(), False

    def update(self, before: World, after: World, touched: frozenset[Key]) -> ViewDelta:
        if self.broken:
            raise RuntimeError("broken")
        if len(touched) > 1:
            self.begun.set()
            assert self.go.wait(10), "the loop never came to say go: it waits itself"
        return super().update(before, after, touched)


class Bench:
    """Names over a feed that only remembers."""

    def __init__(self, rig: Rig, path: Path) -> None:
        self.views, self.feed = SlowViews(), ZoneFeed(path)
        self.live = LiveRevisions([DNS])
        self.told: list[int] = []
        publish = self.feed.publish

        def remember(delta: Any, revision: int) -> None:
            publish(delta, revision)
            self.told.append(revision)

        self.feed.publish = remember  # type: ignore[method-assign]
        compiler = ZoneCompiler("cluster.local", ("169.254.20.10",))
        self.names = Names(compiler, self.views, self.feed, self.live, Problems(LOG), rig.reconciler.call)
        rig.reconciler.subscribe(self.names)


async def test_the_loop_goes_on_while_names_are_compiled_and_small_steps_keep_their_place(tmp_path: Path) -> None:
    rig = Rig()
    bench = Bench(rig, tmp_path / "feed")
    first = await rig.put(*(service(f"s{number}") for number in range(SMALL + 1)))
    async with rig.running():
        assert await asyncio.to_thread(bench.views.begun.wait, 10)
        told = asyncio.create_task(bench.names.told())
        await asyncio.sleep(0)
        assert (bench.told, told.done()) == ([], False)
        second = asyncio.create_task(rig.put(service("late")))
        await asyncio.sleep(0.01)
        bench.views.go.set()
        async with asyncio.timeout(10):
            await told
            await rig.settled(await second)
            await bench.names.told()
        assert bench.told == sorted(bench.told)
        assert (bench.told[0], bench.told[-1]) == (first, first + 1)
        assert await rig.put(service("one")) == first + 2
        async with asyncio.timeout(10):
            while bench.told[-1] != first + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_what_goes_wrong_in_the_thread_is_not_lost(tmp_path: Path) -> None:
    rig = Rig()
    bench = Bench(rig, tmp_path / "feed")
    bench.views.broken = True
    await rig.put(*(service(f"s{number}") for number in range(SMALL + 1)))
    async with rig.running():
        async with asyncio.timeout(10):
            await bench.names.told()
            with pytest.raises(RuntimeError, match="broken"):
                await bench.names.run()
    assert bench.told == []


class Slow:
    """Holds up every `World.apply` of many changes until the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        apply = World.apply

        def slow(world: World, changes: Any, revision: int) -> Any:
            if len(list(changes)) > 200:
                self.begun.set()
                assert self.go.wait(10), "the loop never came to say go: it waits itself"
            return apply(world, changes, revision)

        monkeypatch.setattr(World, "apply", slow)


class Forgetful(MemoryStore):
    """A store whose watch says, when told to, that changes are too old to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.mute = False
        self.lists = 0

    async def list(self, kind: str | None = None) -> Any:
        self.lists += 1
        return await super().list(kind)

    async def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        async for event in super().watch(revision):
            if self.mute:
                self.mute = False
                raise Expired("list again")
            yield event


async def test_many_objects_hold_nobody_up_and_those_under_way_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, store = Slow(monkeypatch), Forgetful()
    async with Rig(store).running() as rig:
        many = [pod(f"p{number}") for number in range(300)]
        await rig.put(*many)
        assert await asyncio.to_thread(slow.begun.wait, 10)
        # They go while they are on their way into the world, and nobody is told of that.
        store.mute, lists = True, store.lists
        revision = await store.commit([Delete(Key("Pod", "shop", f"p{number}")) for number in range(299)])
        async with asyncio.timeout(10):
            while store.lists == lists:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        slow.go.set()
        await rig.settled(revision)
        assert {key.name for key in rig.reconciler.world.objects if key.kind == "Pod"} == {"p299"}
