"""containerd through its client ctr: with and without a DEL at the end, and across a restart of the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lab.system import eventually, objects
from tests.runtime.scene import GUEST, check_from_inside, check_from_outside, without_a_trace

from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.containerd import Containerd

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]


def guests(lab: Lab) -> list[str]:
    return [item["spec"]["podName"] for item in objects(lab, "attachments") if item["spec"]["podNamespace"] == "default"]


def test_ctr_run_until_its_end(node_lab: Lab, containerd: Containerd, resolv: Path) -> None:
    with without_a_trace(node_lab):
        client = containerd.attend("waits", GUEST, resolv)
        try:
            eventually(lambda: guests(node_lab) == ["default-waits"], "ctr attaches the container", 15)
            check_from_outside(node_lab, "default-waits")
            check_from_inside(node_lab, lambda command: containerd.exec("waits", command))
        finally:
            containerd.kill("waits")
            client.wait(20)


def test_ctr_containers_that_never_get_a_del(node_lab: Lab, containerd: Containerd, resolv: Path) -> None:
    """`ctr run -d --cni` attaches, but nobody ever detaches: the agent must notice by itself."""
    with without_a_trace(node_lab):
        containerd.start("left", GUEST, resolv)
        check_from_outside(node_lab, "default-left")
        check_from_inside(node_lab, lambda command: containerd.exec("left", command))
        containerd.restart()
        check_from_inside(node_lab, lambda command: containerd.exec("left", command))
        containerd.remove("left")
        eventually(lambda: guests(node_lab) == [], "the agent releases what nobody detaches", 5)
