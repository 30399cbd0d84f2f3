"""STATUS waits for nobody: not for a store that is stuck, nor for calls that wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.test_cni_attach import Node

from fairway_cni import faults
from fairway_cni.faults import CniError
from fairway_cni.ipam import AddressPool
from fairway_store.api import Write


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "spool")


async def test_a_stuck_store_does_not_keep_status_waiting(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    released, commit = asyncio.Event(), node.control.commit

    async def stuck(writes: Sequence[Write]) -> int:
        await released.wait()
        return await commit(writes)

    monkeypatch.setattr(node.control, "commit", stuck)
    adding = asyncio.create_task(node.call("ADD"))
    took = []
    for _ in range(5):
        await asyncio.sleep(0.01)
        start = time.monotonic()
        await node.call("STATUS")
        await node.call("STATUS", CNI_CONTAINERID="c1", CNI_IFNAME="eth0")
        took.append(time.monotonic() - start)
    assert not adding.done()
    assert min(took) < 0.05, took
    released.set()
    assert await adding


async def test_status_looks_at_the_ranges_that_the_network_uses(node: Node) -> None:
    node.pool = AddressPool(["10.1.0.0/30"])
    node.start()
    await node.call("ADD")
    own = {"ipam": {"ranges": [[{"subnet": "10.2.0.0/30"}]]}}
    await node.call("STATUS", own)
    await node.call("ADD", own, CNI_IFNAME="eth1")
    for conf, pool in (({}, "10.1.0.0/30: 1 of 1"), (own, "10.2.0.0/30: 1 of 1")):
        with pytest.raises(CniError, match=pool) as caught:
            await node.call("STATUS", conf)
        assert caught.value.code == faults.LIMITED


BEFORE = {
    "prevResult": {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "eth0", "sandbox": "/n/1"}],
        "ips": [{"address": "10.77.0.2/24"}],
    }
}


async def test_a_network_that_another_plugin_gives_addresses_to_needs_none_of_ours(node: Node) -> None:
    node.pool = AddressPool(["10.1.0.0/30"])
    node.start()
    await node.call("ADD", CNI_IFNAME="eth9")
    chained = {"name": "chain"}
    with pytest.raises(CniError, match="1 of 1"):
        await node.call("STATUS", chained)
    await node.call("STATUS", {**chained, "mode": "chained"})
    await node.call("ADD", {**chained, **BEFORE})
    await node.call("STATUS", chained)
    node.start()
    await node.call("STATUS", chained)
    await node.call("DEL", {**chained, **BEFORE})
    await node.call("STATUS", chained)
    with pytest.raises(CniError, match="1 of 1"):
        await node.call("ADD", chained, CNI_CONTAINERID="c2")
    with pytest.raises(CniError, match="1 of 1"):
        await node.call("STATUS", chained)


async def test_a_chained_network_needs_a_plugin_before_it(node: Node) -> None:
    with pytest.raises(CniError, match="no plugin comes before") as caught:
        await node.call("ADD", {"mode": "chained"})
    assert caught.value.code == faults.CONFIG
    assert await node.call("ADD", {"mode": "chained", **BEFORE})
