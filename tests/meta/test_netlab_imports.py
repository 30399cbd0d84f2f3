"""The pytest plugin is loaded in every test run of everybody who has the package: it must cost nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fairway_netlab.helper


def test_the_plugin_imports_nothing_of_weight() -> None:
    program = (
        "import sys, pytest; before = set(sys.modules); import fairway_netlab.pytest_plugin; print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"fairway_netlab", "fairway_netlab.pytest_plugin"}


def test_the_helper_runs_without_site_packages(tmp_path: Path) -> None:
    # No arguments: it must get as far as reading them.
    command = [sys.executable, "-I", "-S", str(fairway_netlab.helper.__file__)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "IndexError" in done.stderr and "Import" not in done.stderr
