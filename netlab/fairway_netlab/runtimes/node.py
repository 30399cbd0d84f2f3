"""Where a runtime runs: a network namespace of the laboratory, directories of its own, and our plugin's directories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND_SECONDS = 60.0


class RuntimeFailed(RuntimeError):
    """A runtime's command failed; the message carries what it printed."""


@dataclass(frozen=True, slots=True)
class RuntimeNode:
    """`netns` is a path, `cni_bin` holds the plugin, `cni_conf` the network list, `work` is private to the runtime."""

    netns: str
    cni_bin: Path
    cni_conf: Path
    work: Path

    def enter(self, command: Sequence[str]) -> list[str]:
        """`command` inside the network namespace. nsenter, since `ip netns exec` would remount /sys and hide the cgroups."""
        return ["nsenter", f"--net={self.netns}", *command]

    def run(self, command: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = COMMAND_SECONDS) -> str:
        """Run to the end inside the namespace; the standard output. Raises RuntimeFailed."""
        done = subprocess.run(
            self.enter(command), capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}, check=False
        )
        if done.returncode != 0:
            raise RuntimeFailed(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout


def installed_node(netns: str, config_file: Path, work: Path) -> RuntimeNode:
    """The node as a runtime on it sees it: `fairway install` has been run, into directories below `work`."""
    bin_dir, conf_dir = work / "bin", work / "net.d"
    command = ["install", "--config", str(config_file), "--bin-dir", str(bin_dir), "--conf-dir", str(conf_dir)]
    subprocess.run([sys.executable, "-m", "fairway_cli.main", *command], check=True, capture_output=True, text=True)
    return RuntimeNode(netns, bin_dir, conf_dir, work / "runtime")


def missing_programs(*names: str) -> list[str]:
    """Those of `names` that are not installed."""
    return [name for name in names if shutil.which(name) is None]
