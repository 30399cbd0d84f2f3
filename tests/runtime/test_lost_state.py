"""An old copy of the state directory comes back while a container runs: it goes on, and its runtime can still do all with it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.lab.system import kill_agent
from tests.runtime.scene import GUEST, check_from_inside, check_from_outside, without_a_trace

from fairway_netlab.lab import Lab
from fairway_netlab.runtimes.podman import Podman

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]


def move(source: Path, target: Path) -> None:
    """Put another database in the place of the one at `target`, with the agent dead."""
    for path in target.glob("fairway.db*"):
        path.unlink()
    for path in source.glob("fairway.db*"):
        shutil.copy(path, target)


def test_a_container_that_no_record_knows_goes_on(node_lab: Lab, podman: Podman, tmp_path: Path) -> None:
    state = Path(json.loads(node_lab.node().config_file.read_text())["stateDir"])
    with without_a_trace(node_lab):
        kill_agent(node_lab)
        move(state, tmp_path)
        node_lab.start_agent()
        podman.start("kept", GUEST, "-p", "18080:7000")
        try:
            before = check_from_outside(node_lab, "kept")
            kill_agent(node_lab)
            move(tmp_path, state)
            node_lab.start_agent()
            after = check_from_outside(node_lab, "kept")
            assert (after["ips"], after["containerID"], "hostPorts" in after) == (before["ips"], before["containerID"], False)
            check_from_inside(node_lab, lambda command: podman.exec("kept", command))
            podman.reload("kept")
            again = check_from_outside(node_lab, "kept")
            assert (again["ips"], again["hostPorts"]) == (before["ips"], before["hostPorts"]), (
                "what only the runtime knows is back"
            )
        finally:
            podman.remove("kept")


def test_two_networks_of_one_container(node_lab: Lab, podman: Podman) -> None:
    with without_a_trace(node_lab), podman.another_network("second"):
        podman.start("two", GUEST, network="fairway,second")
        try:
            check_from_outside(node_lab, "two", number=2)
            check_from_inside(node_lab, lambda command: podman.exec("two", command))
            podman.reload("two")
            check_from_inside(node_lab, lambda command: podman.exec("two", command))
        finally:
            podman.remove("two")
