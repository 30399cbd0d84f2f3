"""What gathers the tellers: it survives them, and a node without a cluster has none."""

from __future__ import annotations

import asyncio
import logging

import pytest
from tests.unit.agent_rig import Rig, service
from tests.unit.test_agent_condition import Node
from tests.unit.test_agent_tidings import call, said

from fairway_agent import reports
from fairway_agent.reports import Reports
from fairway_core.clock import SystemClock

LOG = logging.getLogger("test")


async def test_a_teller_that_fails_is_started_again_and_takes_nothing_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "AGAIN_SECONDS", 0.01)
    rig, tried = Rig(), 0
    told = Reports("n1", rig.problems, rig.metrics, SystemClock(), LOG)

    async def failing() -> None:
        nonlocal tried
        tried += 1
        raise RuntimeError("unforeseen")

    running = asyncio.create_task(told._guarded(failing))
    async with asyncio.timeout(5):
        while tried < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert not running.done()
    running.cancel()


async def test_a_node_without_a_cluster_tells_nobody_and_knows_all_the_same() -> None:
    rig = Rig()
    told = Reports("n1", rig.problems, rig.metrics, SystemClock(), LOG)
    told.add_failed(call(), said(104, "no address"))
    rig.reconciler.gaps = told.gaps
    await rig.put(service("odd", sessionAffinity="Cookie"))
    async with rig.running():
        running = asyncio.create_task(told.run(rig.store, rig.reconciler))
        await asyncio.sleep(0)
        assert told.gaps.counts() == {"Service": 1} and not running.done()
        running.cancel()


async def test_with_a_cluster_the_condition_follows_the_node() -> None:
    rig, node = Rig(), Node()
    told = Reports("n1", rig.problems, rig.metrics, SystemClock(), LOG)
    told.use(node)
    await rig.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "namespace": ""}})
    async with rig.running():
        running = asyncio.create_task(told.run(rig.store, rig.reconciler))
        async with asyncio.timeout(5):
            while not node.written:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert node.written[0].status == "False"
        running.cancel()
