"""Calling the CNI plugin as a container runtime does: execute the binary, environment and standard input in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.resources import files
from pathlib import Path
from typing import Any

from fairway_netlab.plan import NETNS_DIR, NodePlan, StationPlan, cni_config, cni_environment
from fairway_netlab.processes import LabError, in_namespace

SHIM_SECONDS = 65.0


def shim_path() -> Path:
    """The plugin's executable, as installed with the package. Raises LabError if it was not built."""
    path = Path(str(files("fairway_cni") / "fairway-shim"))
    if not path.is_file():
        raise LabError(f"{path} is missing: the package was installed without building the CNI executable")
    return path


def attach(node: NodePlan, station: StationPlan) -> tuple[str, ...]:
    """CNI ADD; the addresses given, without prefix length. Raises LabError with the plugin's message."""
    result = call_plugin(node, station, "ADD")
    return tuple(item["address"].split("/")[0] for item in result.get("ips") or ())


def detach(node: NodePlan, station: StationPlan) -> None:
    """CNI DEL. Raises LabError with the plugin's message."""
    call_plugin(node, station, "DEL")


def call_plugin(node: NodePlan, station: StationPlan, command: str) -> dict[str, Any]:
    """One CNI call inside the node's namespace; the result, empty if the plugin printed none."""
    shim = shim_path()
    netns = str(NETNS_DIR / station.netns)
    environment = {**os.environ, **cni_environment(station, command, netns, str(shim.parent))}
    done = subprocess.run(
        in_namespace(node.netns, [str(shim)]),
        input=json.dumps(cni_config(node)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=SHIM_SECONDS,
        check=False,
    )
    if done.returncode:
        raise LabError(f"CNI {command} of {station.title} on {node.name}: {_reason(done.stdout) or done.stderr.strip()}")
    decoded: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
    return decoded


def _reason(text: str) -> str:
    """The message of a CNI error (specification 1.1.0, section 5 "Error")."""
    try:
        error = json.loads(text)
        return f"{error['msg']} (code {error['code']}) {error.get('details') or ''}".strip()
    except (ValueError, KeyError, TypeError):
        return text.strip() or "no output"
