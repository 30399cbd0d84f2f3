"""NetworkPolicies across nodes while labels, namespaces and policies change, with packets and with connections that are open.

What one node does with every feature of a policy is in test_policy_packets.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from tests.lab.cluster import LINK, Cluster, PodSpec, cluster
from tests.lab.sockets import say
from tests.lab.system import eventually, policy

from fairway_kernel import netns
from fairway_netlab.matrix import Matrix
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root
FRONT, OTHER, BANK = PodSpec("front", 1, "front"), PodSpec("other", 1, "other"), PodSpec("bank", 2, "bank", namespace="payments")
WEB = ["10.96.0.90", "fd00:10:96::90"]
PORT = 31900
SELECTED = {"podSelector": {"matchLabels": {"app": "bank"}}}


def namespace(name: str, **labels: str) -> dict[str, Any]:
    labels = {"kubernetes.io/metadata.name": name, **labels}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def by_namespace(**labels: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": labels}}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    names = [namespace("shop", team="a"), namespace("payments")]
    with (
        LabSession() as session,
        cluster(session.up, tmp_path_factory.mktemp("cluster"), [FRONT, OTHER, BANK], objects=names) as made,
    ):
        made.publish("bank", "bank", ips=WEB, nodePort=PORT)
        yield made


@pytest.fixture
def clean(two: Cluster) -> Iterator[Cluster]:
    """Every policy of a test goes, and what it hindered works again."""
    yield two
    for name in ("one", "two"):
        for where in ("shop", "payments"):
            two.server.delete("NetworkPolicy", where, name)
    two.server.put(namespace("shop", team="a"))
    two.report(FRONT, OTHER, BANK)
    expect(two, front=True, other=True)


def expect(two: Cluster, host: str = "", port: int = 8080, protocol: Any = "TCP", **sources: bool) -> None:
    """Who reaches the bank's pod, or `host`."""
    checks = Matrix(two.lab)
    for source, reaches in sources.items():
        (checks.expect_some if reaches else checks.expect_none)(source, host or "bank", port, protocol)
    checks.check()


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_denial_of_everything_spares_a_pod_itself_and_ends_with_the_policies(clean: Cluster, protocol: str) -> None:
    both = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    clean.server.put(policy("one", "payments", **both))
    expect(clean, protocol=protocol, front=False, other=False, client=False, bank=True)
    expect(clean, clean.lab.address("front"), protocol=protocol, bank=False)
    expect(clean, WEB[0], 80, protocol=protocol, front=False, bank=True)
    # An empty rule opens everything, in its direction alone.
    clean.server.put(policy("two", "payments", podSelector={}, ingress=[{}]))
    expect(clean, protocol=protocol, front=True, other=True)
    expect(clean, clean.lab.address("front"), protocol=protocol, bank=False)


def test_labels_of_pods_and_namespaces_move_open_connections(clean: Cluster) -> None:
    rule = {"from": [{**by_namespace(team="a"), "podSelector": {"matchLabels": {"app": "front"}}}], "ports": [{"port": 8080}]}
    clean.server.put(policy("one", "payments", **SELECTED, ingress=[rule]))
    expect(clean, front=True, other=False)
    with closing(connected(clean, "front")) as one:
        clean.report(replace(OTHER, app="front"))
        expect(clean, front=True, other=True)
        assert echo(one), "what stays allowed is not disturbed"
        clean.report(replace(FRONT, app="else"))
        expect(clean, front=False, other=True)
        assert cut(one), "a pod that loses the label is cut off"
    clean.report(FRONT)
    expect(clean, front=True)
    with closing(connected(clean, "front")) as one:
        clean.server.put(namespace("shop", team="b"))
        expect(clean, front=False, other=False)
        assert cut(one), "so is one whose namespace loses it"
    clean.server.put(namespace("shop", team="a"))
    expect(clean, front=True, other=True)


def test_egress_by_way_of_a_service_is_judged_at_the_pod(clean: Cluster) -> None:
    out = {"to": [by_namespace(**{"kubernetes.io/metadata.name": "payments"})], "ports": [{"port": 8080}]}
    clean.server.put(policy("one", "shop", podSelector={"matchLabels": {"app": "front"}}, policyTypes=["Egress"], egress=[out]))
    expect(clean, WEB[0], 80, front=True, other=True)
    expect(clean, WEB[1], 80, front=True, other=True)
    expect(clean, WEB[0], 80, "UDP", front=False, other=True)
    expect(clean, clean.lab.address("other"), front=False)
    blocks = [{"to": [{"ipBlock": {"cidr": f"{address}/{size}"}} for address, size in zip(WEB, (32, 128), strict=True)]}]
    clean.server.put(policy("one", "shop", podSelector={"matchLabels": {"app": "front"}}, policyTypes=["Egress"], egress=blocks))
    expect(clean, WEB[0], 80, front=False, other=True)


def test_blocks_see_the_client_and_nodes_are_addresses(clean: Cluster) -> None:
    node = LINK[4].format(1)
    block = {"ipBlock": {"cidr": "192.168.90.0/24", "except": [f"{node}/32"]}}
    clean.server.put(policy("one", "payments", **SELECTED, ingress=[{"from": [block]}]))
    expect(clean, LINK[4].format(2), PORT, client=True)
    expect(clean, LINK[4].format(1), PORT, client=False)
    target = clean.lab.address("bank")
    assert say(clean.lab, "n1", target, 8080) == "refused", "a program on another node has that node's address"
    assert say(clean.lab, "n2", target, 8080).startswith("bank"), "one on the pod's own node is let in"
    clean.server.put(policy("one", "payments", **SELECTED, ingress=[{"from": [{"ipBlock": {"cidr": f"{node}/32"}}]}]))
    eventually(lambda: say(clean.lab, "n1", target, 8080).startswith("bank"), "the block has it now")
    expect(clean, LINK[4].format(2), PORT, client=False)


def connected(two: Cluster, source: str) -> socket.socket:
    """A connection to the bank's pod, greeted."""
    address = (two.lab.address("bank"), 8080)
    made = netns.run_in(two.lab.netns(source), lambda: socket.create_connection(address, 5))
    made.settimeout(3)
    assert made.recv(100).startswith(b"bank")
    return made


def echo(one: socket.socket) -> bool:
    one.sendall(b"ping")
    return one.recv(100) == b"ping"


def cut(one: socket.socket) -> bool:
    """Whether the next packets meet a reset."""
    try:
        for _ in range(50):
            one.sendall(b"ping")
            time.sleep(0.02)
    except (ConnectionResetError, BrokenPipeError):
        return True
    return False
