"""CNI where an API server has the Pods: they are waited for, read, and never written."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.agent_rig import LOG, Rig
from tests.unit.test_cni_attach import Node, failing

from fairway_agent.control import AgentControl
from fairway_cni import faults
from fairway_core.keys import BY_NAME, Key
from fairway_core.model.pod import MIRROR
from fairway_store.api import Put
from fairway_store.kubernetes.prune import prune
from fairway_store.kubernetes.resources import resource_of

KEY = Key("Pod", "shop", "web-1")
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
}
ARGS = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"


async def test_pods_of_an_api_server_are_waited_for_and_left_alone(tmp_path: Path) -> None:
    node = Node(tmp_path / "spool")
    node.control.owns_pods = False
    error = await failing(node, faults.TRY_LATER, "ADD", CNI_ARGS=ARGS)
    assert "Pod/shop/web-1" in str(error.details)
    await node.control.commit([Put(KEY, POD)])
    result = await node.call("ADD", CNI_ARGS=ARGS)
    assert result["ips"]
    assert len(node.attachments) == 1
    await node.call("DEL", CNI_ARGS=ARGS)
    entry = await node.control.entry(KEY)
    assert node.attachments == [] and entry is not None and entry.document == POD
    written = [line for line in node.control.log if "Pod/" in line]
    assert written == [f"put {KEY}"], "the one write is the test's own"


async def test_a_container_without_a_pod_name_needs_no_pod(tmp_path: Path) -> None:
    node = Node(tmp_path / "spool")
    node.control.owns_pods = False
    assert (await node.call("ADD"))["ips"]


async def test_a_static_pod_is_known_by_the_uid_that_its_mirror_names(tmp_path: Path) -> None:
    """A runtime is told the uid kubelet made up; the object that stands for the pod in the API server has one of its own."""
    resource = resource_of(BY_NAME["Pod"])
    meta = {**POD["metadata"], "uid": "u-api", "annotations": {MIRROR: "u-static", "other.example/x": "y"}}
    kept = prune(resource, {"metadata": meta, "spec": {}})
    assert kept is not None and kept["metadata"]["annotations"] == {MIRROR: "u-static"}
    rig = Rig(clustered=True)
    async with rig.running():
        control = AgentControl(rig.store, rig.reconciler, rig.live, lambda: "", LOG, owns_pods=False)
        await rig.settled(await rig.store.commit([Put(KEY, kept)]))
        for uid in ("u-static", "u-api", ""):
            await asyncio.wait_for(control.expect_pod(KEY, uid), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(control.expect_pod(KEY, "u-older"), 0.1)
