"""A second agent in a network namespace, with directories of its own: refused before it touches anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lab import system

from fairway_core.errors import UserError
from fairway_kernel.sole import claim
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root


def test_one_agent_serves_a_network_namespace(lab: Callable[..., Lab], tmp_path: Path) -> None:
    one = lab(system.topology("bridge", [system.container("a")]))
    config = json.loads(one.node().config_file.read_text())
    other = {**config, "stateDir": str(tmp_path / "state"), "runDir": str(tmp_path / "run"), "metrics": {"listen": ""}}
    (tmp_path / "fairway.yaml").write_text(json.dumps(other))
    before = system.nft_json(one)
    pid = system.agent_pid(one)
    command = [sys.executable, "-m", "fairway_cli.main", "agent", "--config", str(tmp_path / "fairway.yaml")]
    done = subprocess.run(one.command("n1", command), capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, f"runs in this network namespace already (process {pid})" in done.stderr) == (2, True), done
    assert system.nft_json(one) == before
    assert not (tmp_path / "state").exists(), "nothing was begun"
    system.kill_agent(one)
    one.start_agent()


def test_who_has_died_holds_nothing() -> None:
    name = f"fairway-test-{os.getpid()}"
    with claim(name), pytest.raises(UserError, match=rf"process {os.getpid()}\b"):
        claim(name, patience=0.1)
    claim(name).close()
