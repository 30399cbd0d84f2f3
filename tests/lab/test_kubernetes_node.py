"""One node that follows an API server: names, virtual IPs, policy and pod identity come from there."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.serve import ServedDouble
from tests.lab.system import container, eventually, objects, policy, topology

from fairway_netlab.control import call, request
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.processes import LabError

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
WEB, DNS = "10.96.0.50", "10.96.0.10"


def pod(name: str, namespace: str = "shop", **labels: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace, "labels": labels, "uid": f"uid-{name}"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}}


def service(name: str, ip: str, namespace: str = "shop", port: int = 80, protocol: str = "TCP") -> dict[str, Any]:
    ports = [{"port": port, "protocol": protocol, "targetPort": 8080}]
    spec = {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name}, "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace}, "spec": spec}


def endpoints(lab: Lab, name: str, *pods: str) -> dict[str, Any]:
    """The slice a controller would write."""
    ready = {"ready": True, "serving": True, "terminating": False}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-abc", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [lab.address(pod)], "conditions": ready, "targetRef": {"kind": "Pod", "name": pod}} for pod in pods
        ],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    }


@pytest.fixture
def server() -> Iterator[ServedDouble]:
    made = ServedDouble(Path(f"/run/netns/fwlab-k8s{os.getpid()}.n1"))
    made.start()
    made.put(
        {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDRs": ["10.244.0.0/24"]}},
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}},
        service("web", WEB),
        service("kube-dns", DNS, "kube-system", 53, "UDP"),
        *(pod(name, app="web") for name in ("web-1", "web-2")),
        pod("front", app="front"),
        pod("other", app="other"),
        pod("late", app="front"),
    )
    yield made
    made.close()


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_node_follows_its_api_server(
    lab: LabFactory, matrix: Callable[[Lab], Matrix], server: ServedDouble, tmp_path: Path, mode: str
) -> None:
    store = {"store": {"kind": "kubernetes", "kubeconfig": str(server.kubeconfig(tmp_path / "kubeconfig"))}}
    guests = [container("web-1", port=8080), container("web-2", port=8080), container("front"), container("other")]
    one = lab({**topology(mode, guests, config=store), "name": f"k8s{os.getpid()}"})
    server.put(endpoints(one, "web", "web-1", "web-2"))
    eventually(lambda: objects(one, "endpointslices"), "the slice has arrived")
    opened = matrix(one)
    for name in ("front", "other", "web-1"):
        opened.expect_some(name, "web", 80, answered_by=["web-1", "web-2"])
    opened.check()
    page = request(one.node().socket, "GET", "/metrics")[1].decode()
    assert "fairway_node_deviation" in page and documented() <= set(re.findall(r"^# HELP (fairway_\w+?)(?:_total)? ", page, re.M))
    assert resolve(one, "front", "web.shop.svc.cluster.local", DNS) == WEB, "the cluster's DNS address is answered here"

    # The labels are those of the API server's Pods: the runtime said none.
    peers = [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}]
    server.put(policy("web", "shop", podSelector={"matchLabels": {"app": "web"}}, ingress=peers))
    eventually(lambda: objects(one, "networkpolicies"), "the policy has arrived")
    closed = matrix(one)
    closed.expect_some("front", "web", 80, answered_by=["web-1", "web-2"])
    closed.expect_none("other", "web", 80)
    closed.expect_none("other", "web-1", 8080)
    closed.check()

    server.outage()
    one.add(container("late"))
    dark = matrix(one)
    dark.expect_some("late", "web", 80, answered_by=["web-1", "web-2"])
    dark.expect_none("other", "web", 80)
    dark.check()
    with pytest.raises(LabError, match="API server"):
        one.apply([service("x", "")])
    eventually(lambda: any("cannot be reached" in text for text in status(one)["problems"]), "the outage is shown")
    assert status(one)["ready"], "an outage does not take the node out of service"


def documented() -> set[str]:
    """Every metric in the manual; with this store there are all of them."""
    return set(re.findall(r"^\| `(fairway_\w+)`", (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(), re.M))


def status(one: Lab) -> dict[str, Any]:
    return call(one.node().socket, "GET", "/v1/status")


def resolve(one: Lab, source: str, name: str, server: str) -> str:
    """What `server` answers to a container."""
    code = (
        "import sys, dns.message, dns.query\n"
        "answer = dns.query.udp(dns.message.make_query(sys.argv[1], 'A'), sys.argv[2], timeout=3)\n"
        "print(answer.answer[0][0])"
    )
    done = one.exec(source, [sys.executable, "-c", code, name, server])
    return done.stdout.strip() or done.stderr
