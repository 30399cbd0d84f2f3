"""containerd's Container Runtime Interface, the path kubelet takes: run, stop and remove a pod sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.lab.system import eventually, objects, on_node
from tests.runtime.scene import check_from_inside, check_from_outside, without_a_trace

from fairway_netlab.helper import OPEN
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target
from fairway_netlab.runtimes.containerd import Containerd
from fairway_netlab.runtimes.cri import Sandboxes, fields, varint

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]

SPACE = "k8s.io"
NODE = "192.0.2.77"
DNS = {
    "servers": ["169.254.20.10"],
    "searches": ["default.svc.cluster.local", "svc.cluster.local", "cluster.local"],
    "options": ["ndots:5"],
}


@pytest.fixture
def sandboxes(containerd: Containerd) -> Iterator[Sandboxes]:
    with Sandboxes(containerd.socket) as client:
        yield client


def serve(containerd: Containerd, sandbox: str) -> None:
    containerd.exec(sandbox, ["httpd", "-p", "7000", "-h", "/www"], SPACE)


def test_the_life_of_a_pod_sandbox(node_lab: Lab, containerd: Containerd, sandboxes: Sandboxes) -> None:
    with without_a_trace(node_lab):
        sandbox = sandboxes.run("default", "pod-1", DNS, {"team": "red"})
        try:
            serve(containerd, sandbox)
            spec = check_from_outside(node_lab, "pod-1")
            assert spec["containerID"] == sandbox
            pod = next(item for item in objects(node_lab, "pods") if item["metadata"]["name"] == "pod-1")
            assert pod["metadata"]["annotations"]["team"] == "red"
            check_from_inside(node_lab, lambda command: containerd.exec(sandbox, command, SPACE))
        finally:
            sandboxes.stop(sandbox)
            stopped = objects(node_lab, "attachments")
            sandboxes.remove(sandbox)
        assert "pod-1" not in [item["spec"]["podName"] for item in stopped]


def test_host_ports_and_rates_as_kubelet_asks_for_them(node_lab: Lab, containerd: Containerd, sandboxes: Sandboxes) -> None:
    rates = {"kubernetes.io/ingress-bandwidth": "80M", "kubernetes.io/egress-bandwidth": "40M"}
    with without_a_trace(node_lab):
        sandbox = sandboxes.run("default", "pod-3", DNS, rates, {30_080: 7000})
        try:
            serve(containerd, sandbox)
            spec = check_from_outside(node_lab, "pod-3")
            assert (spec["bandwidth"]["ingressRate"], spec["bandwidth"]["egressRate"]) == (80_000_000, 40_000_000)
            assert "tbf" in on_node(node_lab, "tc", "qdisc", "show", "dev", spec["hostIfname"])
            on_node(node_lab, "ip", "address", "add", f"{NODE}/32", "dev", "lo")
            eventually(
                lambda: node_lab.probe("front", [Target(NODE, 30_080)])[0].state == OPEN, "the node's port leads to the pod"
            )
        finally:
            on_node(node_lab, "ip", "address", "flush", "to", NODE, "dev", "lo")
            sandboxes.stop(sandbox)
            sandboxes.remove(sandbox)


def test_a_sandbox_outlives_its_containerd(node_lab: Lab, containerd: Containerd, sandboxes: Sandboxes) -> None:
    with without_a_trace(node_lab):
        sandbox = sandboxes.run("default", "pod-2", DNS, {})
        containerd.restart()
        serve(containerd, sandbox)
        check_from_outside(node_lab, "pod-2")
        sandboxes.stop(sandbox)
        sandboxes.remove(sandbox)


def test_the_wire_format() -> None:
    assert varint(300) == b"\xac\x02"
    assert list(fields(b"\x0a\x03abc\x10\xac\x02")) == [(1, b"abc"), (2, 300)]
