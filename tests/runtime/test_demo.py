"""The demonstration, as a user runs it: every promise in it holds, both runtimes included, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.runtime.scene import require

from fairway_netlab.runtimes.containerd import Containerd
from fairway_netlab.runtimes.podman import Podman

pytestmark = [pytest.mark.needs_root, pytest.mark.runtime]


def test_the_demonstration_keeps_its_promises() -> None:
    require([*Containerd.missing(), *Podman.missing()])
    done = subprocess.run([sys.executable, "-m", "fairway_netlab.demo"], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAIL" not in done.stdout
    assert "left out" not in done.stdout
    assert "web-1" in done.stdout
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert "fwlab-demo" not in namespaces
