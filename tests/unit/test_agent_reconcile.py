"""The reconciler's promises, over a store and a kernel that misbehave on request."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.agent_rig import Rig, deny, pod, running_pod, service

from fairway_agent import reconcile
from fairway_agent.pacing import GAP_SECONDS
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.objects import INET, Layout
from fairway_kernel.nft.transaction import Transaction
from fairway_store.api import Changed, Delete, Expired, InSync, Listing
from fairway_store.memory import MemoryStore

ATTACHMENT = {
    "kind": "Attachment",
    "metadata": {"name": "a1"},
    "spec": {
        "network": "n", "containerID": "c", "ifname": "eth0", "podNamespace": "shop", "podName": "p", "hostIfname": "fwb1",
        "mac": "02:00:00:00:00:01", "ips": ["10.244.0.9"], "mode": "bridge", "mtu": 1500,
    },
}  # fmt: skip
NO_MEMORY = KernelError(errno.ENOMEM, "nft transaction")


class SlowList(MemoryStore):
    """A store whose first list takes until it is allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()

    async def list(self, kind: str | None = None) -> Listing:
        await self.allowed.wait()
        return await super().list(kind)


async def test_nothing_is_written_before_the_first_list() -> None:
    store = SlowList()
    rig = Rig(store)
    await rig.put(deny("closed"))
    task = asyncio.create_task(rig.reconciler.run())
    await asyncio.sleep(0.05)
    assert rig.runner.transactions == []
    assert not rig.reconciler.synced.is_set()
    store.allowed.set()
    await asyncio.wait_for(rig.reconciler.synced.wait(), 5)
    assert rig.runner.read(INET, Layout()) is not None
    assert rig.live.snapshot()["nft"] == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    rig.reconciler.close()


async def test_in_a_cluster_a_stream_is_a_few_steps_and_nobody_who_waits_is_held_up() -> None:
    async with Rig(clustered=True).running() as rig:
        # The first after quiet is not held up.
        started = time.monotonic()
        await rig.settled(await rig.put(service("first", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"])))
        first = time.monotonic() - started
        steps, started = len(rig.steps.seen), time.monotonic()
        for number in range(200):
            ip = f"10.96.1.{number}"
            last = await rig.put(service(f"s{number}", clusterIP=ip, clusterIPs=[ip]))
            await asyncio.sleep(0.001)
        await rig.settled(last)
        took = time.monotonic() - started
        assert len(rig.steps.seen) - steps <= took / GAP_SECONDS + 2
        # An attachment in the middle of a stream is the next step.
        await rig.put(service("again", clusterIP="10.96.2.1", clusterIPs=["10.96.2.1"]))
        await asyncio.sleep(0)
        started = time.monotonic()
        await rig.settled(await rig.put(ATTACHMENT))
        assert time.monotonic() - started < max(first, GAP_SECONDS / 2) + GAP_SECONDS / 2


class SlowRunner(FakeRunner):
    """Counts commits; holds them up while `held` is not set."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()
        self.entered = threading.Event()

    def run(self, transaction: Transaction) -> None:
        self.entered.set()
        assert self.free.wait(10)
        super().run(transaction)


async def test_commits_that_queue_up_are_taken_together() -> None:
    runner = SlowRunner()
    async with Rig(runner=runner).running() as rig:
        runner.free.clear()
        runner.entered.clear()
        await rig.put(service("first", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"]))
        await asyncio.to_thread(runner.entered.wait, 5)
        steps, done = len(rig.steps.seen), len(runner.transactions)
        for number in range(50):
            ip = f"10.96.1.{number}"
            revision = await rig.put(service(f"s{number}", clusterIP=ip, clusterIPs=[ip]))
        assert rig.live.snapshot()["nft"] < revision
        runner.free.set()
        await rig.settled(revision)
        assert len(rig.steps.seen) - steps <= 3
        assert len(runner.transactions) - done <= 4


async def test_a_refused_transaction_is_told_retried_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "RETRY_SECONDS", 0.1)
    async with Rig().running() as rig:
        before, seen = rig.live.snapshot()["nft"], list(rig.steps.seen)
        for _ in range(4):
            rig.runner.fail_next(NO_MEMORY)
        revision = await rig.put(service("web", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"]))
        await asyncio.sleep(0.05)
        assert "ENOMEM" in rig.problems.text("nft")
        assert rig.live.snapshot()["nft"] == before
        assert rig.steps.seen == seen, "nobody hears of a revision whose rules are not in place"
        await rig.settled(revision)
        assert rig.problems.texts() == []
        assert rig.runner.dump().count("10.96.0.1 . tcp . 80") == 1
        assert [step[:2] for step in rig.steps.seen[len(seen) :]] == [(before, revision)]
        assert b"fairway_nft_failures_total 0.0" not in rig.metrics.render()


async def test_a_verification_that_failed_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "RETRY_SECONDS", 0.05)
    async with Rig().running() as rig:
        await rig.settled(await rig.put(service("web", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"])))
        whole = rig.runner.dump()
        rig.runner.flush_ruleset()
        for _ in range(3):
            rig.runner.fail_next(NO_MEMORY)
        rig.reconciler.request_verify()
        for _ in range(100):
            await asyncio.sleep(0.02)
            if rig.runner.dump().count("\n") >= whole.count("\n"):
                break
        assert _without_digests(rig.runner.dump()) == _without_digests(whole)


def _without_digests(text: str) -> list[str]:
    return sorted(
        line for line in text.splitlines() if "rules_" not in line and "generation" not in line and "ct mark" not in line
    )


async def test_an_object_that_cannot_be_understood_is_told_and_its_last_good_state_stays() -> None:
    async with Rig().running() as rig:
        good = service("web", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"])
        await rig.settled(await rig.put(good))
        bad = service("web", clusterIP="10.96.0.1", clusterIPs=["not an address"])
        revision = await rig.put(bad, pod("other"))
        await rig.settled(revision)
        assert "Service/shop/web" in rig.problems.text("object:Service/shop/web")
        assert "10.96.0.1 . tcp . 80" in rig.runner.dump()
        assert rig.reconciler.world.get(Key("Pod", "shop", "other")) is not None
        await rig.settled(await rig.put(good))
        assert rig.problems.texts() == []
        await rig.settled(await rig.put(bad))
        assert rig.problems.texts() != []
        await rig.settled(await rig.store.commit([Delete(Key("Service", "shop", "web"))]))
        assert rig.problems.texts() == []
        assert "10.96.0.1 . tcp . 80" not in rig.runner.dump()


class Forgetful(MemoryStore):
    """A store whose watch hides changes while `mute` is set and then says that they are too old to be told."""

    def __init__(self) -> None:
        super().__init__()
        self.mute = False

    async def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        async for event in super().watch(revision):
            if self.mute:
                self.mute = False
                raise Expired("list again")
            yield event


async def test_an_expired_watch_misses_no_deletion() -> None:
    store = Forgetful()
    async with Rig(store).running() as rig:
        first = [pod("stays"), pod("goes"), running_pod("web-1", "10.244.0.2", {"app": "web"}), service("web")]
        bad = service("bad", clusterIPs=["not an address"])
        await rig.settled(await rig.put(*first, bad))
        assert len(rig.problems.texts()) == 1
        derived = [key for key in rig.reconciler.world.objects if key.kind == "EndpointSlice"]
        assert derived
        store.mute = True
        gone = [Delete(Key("Pod", "shop", "goes")), Delete(Key("Service", "shop", "bad"))]
        revision = await store.commit(gone)
        await rig.put(pod("comes"))
        await rig.settled(revision + 1)
        names = {key.name for key in rig.reconciler.world.objects if key.kind == "Pod"}
        assert names == {"stays", "comes", "web-1"}
        assert [key for key in rig.reconciler.world.objects if key.kind == "EndpointSlice"] == derived
        assert rig.problems.texts() == [], "what was undecodable and is gone is no problem any more"
        # And the new watch goes on.
        await rig.settled(await rig.put(pod("later")))


async def test_subscribers_see_every_step_once_and_in_order() -> None:
    store = MemoryStore()
    rig = Rig(store)
    await rig.put(pod("a"), pod("b"))
    async with rig.running():
        first = rig.steps.seen[0]
        assert first[:2] == (0, 1)
        assert {key.name for key in first[2]} >= {"a", "b"}
        names = [f"p{number}" for number in range(30)]
        for name in names:
            revision = await rig.put(pod(name))
            await asyncio.sleep(0 if int(name[1:]) % 3 else 0.002)
        await rig.settled(revision)
        moves = [step[:2] for step in rig.steps.seen]
        # Each step begins where the last one ended, and nothing is told twice.
        assert all(one[1] == other[0] for one, other in pairwise(moves))
        told = [key.name for step in rig.steps.seen[1:] for key in step[2] if key.kind == "Pod"]
        assert sorted(told) == sorted(names)


async def test_a_restart_on_the_same_kernel_writes_nothing() -> None:
    runner, store = FakeRunner(), MemoryStore()
    documents: list[Any] = [running_pod("web-1", "10.244.0.2", {"app": "web"}), deny("closed")]
    async with Rig(store, runner).running() as rig:
        await rig.put(*documents, service("web", clusterIP="10.96.0.1", clusterIPs=["10.96.0.1"]))
        await rig.settled(1)
    before = _without_digests(runner.dump())
    count = len(runner.transactions)
    async with Rig(store, runner).running() as rig:
        await rig.settled(1)
        assert _without_digests(runner.dump()) == before
        # Only the generation moves: connections are judged anew, as the old agent may have died before it said so.
        changed = "\n".join(map(str, runner.transactions[count:]))
        assert "10.96.0.1" not in changed
        assert "flush table" not in changed
