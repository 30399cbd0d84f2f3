"""An agent that cannot work yet says so everywhere: status, readiness, CNI, and the node's condition; stage by stage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.double import Fault
from tests.kubernetes.serve import ServedDouble
from tests.lab.cluster import Cluster, PodSpec, cluster, node_of
from tests.lab.system import agent_pid, cni, eventually, kill_agent

from fairway_netlab.control import request
from fairway_netlab.lab import Lab, Process
from fairway_netlab.run import await_agent, start_agent

pytestmark = pytest.mark.needs_root
PODS = "/api/v1/pods"


def says(one: Cluster, *wanted: str) -> Callable[[], bool]:
    """Whether the agent answers that it is not ready because of `wanted`, in status and readiness alike."""

    def look() -> bool:
        try:
            status, body = request(one.lab.node().socket, "GET", "/readyz", timeout=5)
            told = one.status("n1")
        except OSError:
            return False
        text = body.decode()
        return status == 503 and not told["ready"] and all(part in text and part in str(told["problems"]) for part in wanted)

    return look


def refuses(one: Cluster) -> None:
    """CNI, as long as the agent is at none of its work."""
    station = one.lab.station("shop/web")
    assert "code 50" in cni(one.lab, station, "STATUS")
    assert "code 11" in cni(one.lab, station, "ADD")
    status, body = request(one.lab.node().socket, "GET", "/v1/objects/pods", timeout=5)
    assert status == 503 and "the agent is starting" in json.loads(body)["error"]["message"]


def condition(server: ServedDouble) -> tuple[str, str]:
    """Status and reason of NetworkUnavailable."""
    node = server.look(lambda double: double.collections["/api/v1/nodes"].objects.get(("", "n1"), {}))
    found = [item for item in node.get("status", {}).get("conditions", ()) if item["type"] == "NetworkUnavailable"]
    return (found[0]["status"], found[0]["reason"]) if found else ("", "")


def restart(one: Cluster) -> Process:
    """Start the agent again, and wait for nothing."""
    kill_agent(one.lab)
    process = start_agent(one.lab.node())
    eventually(lambda: agent_pid(one.lab), "it runs")
    return process


def test_every_stage_of_a_start_is_told(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("front", 1, "front"), PodSpec("web", 1, "web")], size=1) as one:
        one.server.outage()
        one.server.look(lambda double: double.delete("Node", "", "n1"))
        process = restart(one)
        try:
            stages(one)
            await_agent(one.lab.node(), process)
        finally:
            process.kill()
            process.wait()


def stages(one: Cluster) -> None:
    eventually(says(one, "the first state is not live yet", "cannot be reached"), "no API server")
    refuses(one)
    # A deletion is kept for later: the container that is there goes on till then.
    assert cni(one.lab, one.lab.station("shop/web"), "DEL") == ""
    assert list(one.lab.node().directory.rglob("*.del"))
    assert one.ask("front", one.lab.address("web"), 8080)[0].open

    one.server.look(lambda double: double.misbehave(*[Fault("list", 503, retry_after=1), Fault("watch", 503, retry_after=1)] * 3))
    one.server.resume()
    eventually(says(one, "waiting for Node/n1", "node.name"), "no Node object", 30)
    refuses(one)
    assert condition(one.server) == ("", "")

    bare = node_of("n1", 1)
    bare["spec"] = {}
    one.server.put(bare)
    eventually(says(one, "waiting for Node/n1 to have spec.podCIDRs"), "no pod ranges")
    refuses(one)
    eventually(lambda: condition(one.server) == ("True", "FairwayIsWaiting"), "the scheduler is told")

    one.server.put(node_of("n1", 1))
    eventually(lambda: condition(one.server) == ("False", "FairwayIsUp"), "at work", 30)
    eventually(lambda: not list(one.lab.node().directory.rglob("*.del")), "the deletion is carried out")
    assert one.status("n1")["ready"]


def test_a_list_that_is_missing_holds_the_start_up(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("front", 1, "front"), PodSpec("web", 1, "web")], size=1) as one:
        one.server.look(lambda double: double.forbidden.add(PODS))
        process = restart(one)
        try:
            eventually(
                says(one, "the first state is not live yet", "missing permission: watch pods"),
                "the missing permission is named",
                20,
            )
            refuses(one)
            one.server.look(lambda double: double.forbidden.discard(PODS))
            await_agent(one.lab.node(), process, 60)
        finally:
            process.kill()
            process.wait()
