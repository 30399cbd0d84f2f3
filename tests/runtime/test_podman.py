"""podman 4 with CNI networks: run, kill, restart, and names given with --network-alias."""

from __future__ import annotations

import os
import signal

import pytest
from tests.runtime.scene import GUEST, check_from_inside, check_from_outside, without_a_trace

from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.podman import Podman

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]


def test_podman_run_and_restart(node_lab: Lab, podman: Podman) -> None:
    with without_a_trace(node_lab):
        podman.start("guest", GUEST, "--network-alias", "db")
        try:
            spec = check_from_outside(node_lab, "guest")
            check_from_inside(node_lab, lambda command: podman.exec("guest", command))
            found = node_lab.exec("front", ["getent", "ahosts", "db.default.pod.cluster.local"], check=True).stdout
            assert {line.split()[0] for line in found.splitlines()} == set(spec["ips"])
            podman.restart("guest")
            check_from_outside(node_lab, "guest")
            check_from_inside(node_lab, lambda command: podman.exec("guest", command))
        finally:
            podman.remove("guest")
    assert node_lab.exec("front", ["getent", "ahosts", "db.default.pod.cluster.local"]).returncode == 2


def test_a_killed_podman_container(node_lab: Lab, podman: Podman) -> None:
    with without_a_trace(node_lab):
        podman.start("victim", GUEST, "--rm")
        check_from_outside(node_lab, "victim")
        os.kill(podman.pid("victim"), signal.SIGKILL)
