"""A laboratory on an API server that is not ours: `KUBECONFIG=... pytest -m cluster`; and the same on the double, over TCP.

What is needed: a cluster for tests whose API server this machine reaches, and the right to create namespaces and nodes there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.live import LABEL, LiveServer
from tests.kubernetes.serve import ServedDouble
from tests.lab.cluster import Cluster, PodSpec, cluster, service_of
from tests.lab.system import eventually, policy

from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
PODS = [PodSpec("front", 1, "front"), PodSpec("other", 1, "other"), PodSpec("web", 2, "web")]


@pytest.mark.cluster
def test_on_the_cluster_of_kubeconfig(lab: LabFactory, tmp_path: Path) -> None:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster to try this on")
    on_a_cluster(lab, Path(os.environ["KUBECONFIG"]), tmp_path)


def test_on_the_double(lab: LabFactory, tmp_path: Path) -> None:
    double = ServedDouble(None)
    double.start()
    try:
        on_a_cluster(lab, double.kubeconfig(tmp_path / "given"), tmp_path)
        left = double.look(lambda one: [item["metadata"]["name"] for item in one.documents()])
        assert left == [], "everything made is removed"
        verbs = double.look(lambda one: {verb for verb, _ in one.requests})
        assert verbs == {"list", "watch", "create", "patch", "delete"}
    finally:
        double.close()


def on_a_cluster(make: LabFactory, kubeconfig: Path, directory: Path) -> None:
    with cluster(make, directory, PODS, serve=partial(LiveServer, kubeconfig)) as two:
        assert isinstance(two.server, LiveServer)
        services_and_names(two, two.server)
        policies(two)
        conditions(two, two.server)


def services_and_names(two: Cluster, server: LiveServer) -> None:
    server.put(service_of("web", ips=["the server chooses"]), *two.slices("web", "web"))
    given = server.find("Service", "web")["spec"]["clusterIPs"]
    reach = Matrix(two.lab)
    for address in given:
        for protocol in ("TCP", "UDP"):
            reach.expect_some("front", address, 80, protocol, answered_by=["web"])
    reach.expect_some("front", f"web.{server.namespace}.svc.cluster.local", 80, answered_by=["web"])
    reach.check()
    server.put(*two.slices("web", "web", conditions={"ready": False, "serving": False, "terminating": False}))
    two.report(PODS[2], ready=False)
    Matrix(two.lab).expect_none("front", given[0], 80).check()
    two.report(PODS[2])
    server.put(*two.slices("web", "web"))
    Matrix(two.lab).expect_some("front", given[0], 80).check()


def policies(two: Cluster) -> None:
    peers = [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}]
    two.server.put(policy("web", "shop", podSelector={"matchLabels": {"app": "web"}}, ingress=peers))
    Matrix(two.lab).expect_some("front", "web", 8080).expect_none("other", "web", 8080).check()
    two.server.delete("NetworkPolicy", "shop", "web")
    Matrix(two.lab).expect_some("other", "web", 8080).check()


def conditions(two: Cluster, server: LiveServer) -> None:
    def told(name: str) -> set[tuple[str, str]]:
        node = server.find("Node", name)
        assert node["metadata"]["labels"][LABEL] == server.namespace
        return {(item["type"], item["status"]) for item in node["status"].get("conditions", ())}

    for node in ("n1", "n2"):
        eventually(lambda node=node: ("NetworkUnavailable", "False") in told(node), f"{node} says that its network is there")
