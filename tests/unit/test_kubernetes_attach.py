"""CNI where an API server has the Pods: they are waited for, read, and never written."""

from __future__ import annotations

from pathlib import Path

from tests.unit.test_cni_attach import Node, failing

from fairway_cni import faults
from fairway_core.keys import Key
from fairway_store.api import Put

KEY = Key("Pod", "shop", "web-1")
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}}}
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
