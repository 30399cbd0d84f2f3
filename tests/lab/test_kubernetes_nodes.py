"""Nodes among nodes: two agents on one API server, pods and services across them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import LINK, PODS, Cluster, PodSpec, cluster, node_of
from tests.lab.system import eventually, policy

from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
MatrixFactory = Callable[[Lab], Matrix]
WEB, PUBLIC, NEAR = (["10.96.0.50", "fd00:10:96::50"], ["10.96.0.51", "fd00:10:96::51"], ["10.96.0.52", "fd00:10:96::52"])
GUESTS = [PodSpec("a-front", 1, "front"), PodSpec("a-other", 1, "other"), PodSpec("b-web", 2, "web")]


def test_two_nodes(lab: LabFactory, matrix: MatrixFactory, tmp_path: Path) -> None:
    with cluster(lab, tmp_path, GUESTS) as two:
        for here, there in ((1, 2), (2, 1)):
            wanted = {PODS[family].format(there): LINK[family].format(there) for family in (4, 6)}
            assert two.routes(f"n{here}") == wanted, "the way to the other node's pods"
        by_address(two, matrix)
        by_service(two, matrix)
        from_outside(two)
        by_policy(two, matrix)


def by_address(two: Cluster, matrix: MatrixFactory) -> None:
    """Pods reach each other, and each sees the other's own address."""
    reach = matrix(two.lab)
    for protocol in ("TCP", "UDP"):
        reach.expect_some("a-front", "b-web", 8080, protocol)
        reach.expect_some("b-web", "a-front", 8080, protocol)
    sources = {str(outcome.seen) for _, outcome in reach.check()}
    assert sources == {*two.lab.addresses("a-front"), *two.lab.addresses("b-web")}
    # What leaves the cluster has the node's address: outside nobody need know the way to pods.
    leaving = matrix(two.lab).expect_some("a-front", "client", 9000).check()
    assert {outcome.seen for _, outcome in leaving} == {LINK[family].format(1) for family in (4, 6)}


def by_service(two: Cluster, matrix: MatrixFactory) -> None:
    two.publish("web", "b-web", ips=WEB)
    two.publish("heads", "a-front", "b-web", ips=())
    reach = matrix(two.lab)
    for address in WEB:
        reach.expect_some("a-front", address, 80, answered_by=["b-web"])
        reach.expect_some("b-web", address, 80, answered_by=["b-web"])
    reach.expect_some("a-front", "web.shop", 80, answered_by=["b-web"])
    reach.expect_some("a-front", "heads.shop", 8080, answered_by=["a-front", "b-web"])
    reach.expect_some("a-other", "b-web.heads.shop", 8080, answered_by=["b-web"])
    found = [pair for pair in reach.check() if pair[0].source == "a-front" and pair[0].target.host == WEB[0]]
    seen = {outcome.seen for _, outcome in found}
    assert seen == {two.lab.address("a-front")}, "through the virtual IP the client's own address arrives too"


def from_outside(two: Cluster) -> None:
    two.publish("public", "b-web", ips=PUBLIC, nodePort=30080)
    two.publish("near", "b-web", ips=NEAR, nodePort=30081, externalTrafficPolicy="Local")
    for family in (4, 6):
        here, there, client = (LINK[family].format(number) for number in (1, 2, 4))
        for node in (here, there):
            [answer] = two.ask("client", node, 30080)
            assert answer.name == "b-web", "either node leads to the pod"
        [direct] = two.ask("client", there, 30081)
        assert (direct.name, direct.seen) == ("b-web", client), "Local: no second hop, the client's own address"
        [missing] = two.ask("client", here, 30081)
        assert missing.state == "timeout", "Local: a node without endpoints says nothing"


def by_policy(two: Cluster, matrix: MatrixFactory) -> None:
    """Both ends judge by the pods' own addresses."""
    peers = [{"from": [{"podSelector": {"matchLabels": {"app": "front"}}}]}]
    two.server.put(policy("web", "shop", podSelector={"matchLabels": {"app": "web"}}, ingress=peers))
    into = matrix(two.lab).expect_some("a-front", "b-web", 8080).expect_none("a-other", "b-web", 8080)
    into.expect_some("a-front", WEB[0], 80).expect_none("a-other", WEB[0], 80).check()
    probe = ["bash", "-c", f"exec 3<>/dev/tcp/{two.lab.address('b-web')}/8080"]
    assert two.lab.exec("n2", probe, timeout=5).returncode == 0, "kubelet's probes reach the pods of their own node"
    assert two.lab.exec("n1", probe, timeout=5).returncode != 0, "another node is no kubelet of theirs"
    out = [{"to": [{"podSelector": {"matchLabels": {"app": "other"}}}]}]
    two.server.put(policy("front", "shop", podSelector={"matchLabels": {"app": "front"}}, policyTypes=["Egress"], egress=out))
    matrix(two.lab).expect_none("a-front", "b-web", 8080).expect_some("a-front", "a-other", 8080).check()


def test_a_node_comes_goes_and_is_renamed(lab: LabFactory, tmp_path: Path) -> None:
    with cluster(lab, tmp_path, GUESTS[:1]) as two:
        first = two.routes("n1")
        two.server.put(node_of("n3", 3))
        third = {PODS[family].format(3): LINK[family].format(3) for family in (4, 6)}
        eventually(lambda: two.routes("n1") == {**first, **third}, "a route to the new node")
        two.server.delete("Node", "", "n3")
        two.server.put(node_of("n3-renamed", 3))
        eventually(lambda: two.knows("n1", "nodes", "n3-renamed"), "the renamed node is known")
        eventually(lambda: two.routes("n1") == {**first, **third}, "its route stays")
        two.server.put(node_of("n9-thief", 2, creationTimestamp="2026-01-01T00:00:00Z"))
        eventually(
            lambda: any("n9-thief" in text and "overlaps" in text for text in two.problems("n1")), "a double claim is told"
        )
        assert two.routes("n1") == {**first, **third}
        far = node_of("n4", 4)
        far["status"]["addresses"] = [{"type": "InternalIP", "address": "203.0.113.9"}]
        two.server.put(far)
        eventually(lambda: any("node n4" in text for text in two.problems("n1")), "a node out of reach is told")
        for name in ("n9-thief", "n4", "n2"):
            two.server.delete("Node", "", name)
        eventually(lambda: two.routes("n1") == third, "the removed node's routes are gone")
        eventually(lambda: not two.problems("n1"), "what is gone is no problem")
        two.lab.exec("n1", ["ip", "route", "flush", "proto", "157"], check=True)
        eventually(lambda: two.routes("n1") == third, "a flushed route is put back")
