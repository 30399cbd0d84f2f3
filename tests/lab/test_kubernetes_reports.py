"""What a node writes to its API server: the condition, and events about what goes wrong; nothing else, and without a quarrel."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.serve import ServedDouble
from tests.lab.system import cni, container, eventually, on_node, topology
from tests.lab.test_kubernetes_node import pod, service, status

from fairway_netlab.lab import Lab
from fairway_netlab.processes import LabError

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
NAMES = ("one", "two", "three", "four", "five")
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1", "uid": "uid-n1"},
    # Fewer addresses than pods.
    "spec": {"podCIDRs": ["10.244.0.0/30"]},
    "status": {"conditions": [{"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}]},
}
CLUSTER_POLICY = {
    "apiVersion": "policy.networking.k8s.io/v1alpha2",
    "kind": "ClusterNetworkPolicy",
    "metadata": {"name": "baseline", "uid": "uid-cnp"},
    "spec": {"tier": "Admin", "priority": 10},
}

SERVICE_POLICY = {
    "apiVersion": "fairway.dev/v1",
    "kind": "ServicePolicy",
    "metadata": {"name": "gently", "namespace": "shop", "uid": "uid-sp"},
    "spec": {"targetRef": {"kind": "Service", "name": "web"}, "slowStart": {"window": "30s"}},
}
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "front", "namespace": "shop", "uid": "uid-r"},
    "spec": {"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]},
}


@pytest.fixture
def server() -> Iterator[ServedDouble]:
    made = ServedDouble(Path(f"/run/netns/fwlab-rep{os.getpid()}.n1"))
    made.start()
    odd = service("odd", "10.96.0.9")
    odd["spec"]["sessionAffinity"] = "Cookie"
    broken = service("broken", "10.96.0.8")
    broken["spec"]["ports"][0]["protocol"] = "QUIC"
    far = {**pod("far"), "status": {"phase": "Running", "podIPs": [{"ip": "192.168.7.7"}]}}
    twin = {**pod("twin"), "spec": {"nodeName": "n2"}, "status": far["status"]}
    strange = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "new", "namespace": "shop"}, "spec": {}, "status": None}
    made.put(NODE, service("web", "10.96.0.50"), odd, broken, CLUSTER_POLICY, SERVICE_POLICY, ROUTE, far, twin, strange)
    made.put(*(pod(name, app="web") for name in NAMES))
    yield made
    made.close()


def events(server: ServedDouble) -> dict[tuple[str, str], dict[str, Any]]:
    """By object and reason."""
    found = server.look(lambda double: list(double.writes.events.values()))
    return {(f"{item['regarding']['kind']}/{item['regarding']['name']}", item["reason"]): item for item in found}


def condition(server: ServedDouble) -> dict[str, Any]:
    node = server.look(lambda double: double.collections["/api/v1/nodes"].objects["", "n1"])
    found: dict[str, Any] = node["status"]["conditions"][0]
    return found


def fairway(one: Lab, *words: str) -> str:
    return on_node(one, sys.executable, "-m", "fairway_cli.main", *words, "--agent", str(one.node().socket))


def start(lab: LabFactory, server: ServedDouble, tmp_path: Path) -> Lab:
    store = {"store": {"kind": "kubernetes", "kubeconfig": str(server.kubeconfig(tmp_path / "kubeconfig"))}}
    return lab({**topology("routed", config=store, podCIDRs=["10.244.0.0/30"]), "name": f"rep{os.getpid()}"})


def test_a_node_tells_its_cluster_how_it_is(lab: LabFactory, server: ServedDouble, tmp_path: Path) -> None:
    one = start(lab, server, tmp_path)
    eventually(lambda: condition(server)["status"] == "False", "the network is said to be there")
    assert condition(server)["reason"] == "FairwayIsUp" and condition(server)["lastTransitionTime"]
    assert status(one)["ready"], status(one)["problems"]
    assert status(one)["unenforced"]["counts"] == {
        "ClusterNetworkPolicy": 1, "HTTPRoute": 1, "Service": 1, "ServicePolicy": 1
    }  # fmt: skip
    assert "4 objects use features that are not enforced" in fairway(one, "status")

    assert "spec.slowStart" in fairway(one, "get", "svcpol", "-A", "-o", "wide")
    assert "not carried out yet" in fairway(one, "describe", "servicepolicy", "gently", "-n", "shop")
    assert "spec.parentRefs[0]" in fairway(one, "get", "httproutes", "-n", "shop", "-o", "wide")

    one.add(container("one"))
    with pytest.raises(LabError, match=r"code 104"):
        for name in NAMES[1:]:
            one.add(container(name))
    wanted = {
        ("Service/odd", "NotEnforced"),
        ("ClusterNetworkPolicy/baseline", "NotEnforced"),
        ("ServicePolicy/gently", "NotEnforced"),
        ("HTTPRoute/front", "NotEnforced"),
        ("Service/broken", "NotUnderstood"),
        ("Pod/twin", "AddressConflict"),
        ("Pod/far", "AddressOutsideRange"),
    }
    eventually(lambda: wanted <= events(server).keys(), f"events {wanted}", timeout=60)
    failed = [item for (_about, reason), item in events(server).items() if reason == "NoAddress"]
    assert [item["type"] for item in failed] == ["Warning"] and failed[0]["regarding"]["uid"].startswith("uid-")
    assert events(server)["Service/odd", "NotEnforced"]["metadata"]["namespace"] == "shop"

    written = server.look(lambda double: {request for request in double.requests if request[0] not in ("list", "watch")})
    assert written <= {("create", "events"), ("patch", "events"), ("patch", "status")}
    before = server.look(lambda double: double.writes.conditions)
    eventually(lambda: status(one)["ready"], "the node is ready")
    assert server.look(lambda double: double.writes.conditions) == before, "a condition that is right is not written again"
    assert cni(one, one.station("shop/one"), "DEL") == ""


def test_without_the_permission_the_node_works_and_says_what_is_missing(
    lab: LabFactory, server: ServedDouble, tmp_path: Path
) -> None:
    server.look(
        lambda double: double.forbidden.update({"/api/v1/nodes/n1/status", "/apis/events.k8s.io/v1/namespaces/shop/events"})
    )
    one = start(lab, server, tmp_path)
    one.add(container("one"))
    missing = ["missing permission: patch nodes/status", "missing permission: create events"]
    eventually(lambda: all(any(text in line for line in status(one)["problems"]) for text in missing), "both are named")
    asked = server.look(lambda double: len([verb for verb, _ in double.requests if verb in ("create", "patch")]))
    assert asked <= 3, "a refusal is not answered by asking again at once"
    assert status(one)["ready"]
