"""What the system tests share: a standard laboratory, its documents, and looks into kernel and store that own nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairway_netlab.attach import call_plugin
from fairway_netlab.control import call
from fairway_netlab.lab import Lab
from fairway_netlab.plan import StationPlan
from fairway_netlab.processes import LabError

CIDRS = ["10.244.0.0/24", "fd00:10:244::/64"]


def topology(mode: str = "bridge", containers: list[dict[str, Any]] | None = None, **node: Any) -> dict[str, Any]:
    """One node `n1` and `containers`."""
    return {"nodes": [{"name": "n1", "podCIDRs": CIDRS, "mode": mode, **node}], "containers": containers or []}


def container(name: str, namespace: str = "shop", port: int = 0, **labels: str) -> dict[str, Any]:
    """A container on n1; with a port it answers there over TCP and UDP."""
    serve = [{"protocol": protocol, "port": port} for protocol in ("TCP", "UDP")] if port else []
    return {"name": name, "namespace": namespace, "node": "n1", "labels": labels, "serve": serve}


def service(name: str, namespace: str = "shop", port: int = 80, target: int = 8080, **spec: Any) -> dict[str, Any]:
    """A dual-stack service over TCP and UDP for pods labelled app=NAME."""
    ports = [{"name": p.lower(), "protocol": p, "port": port, "targetPort": target} for p in ("TCP", "UDP")]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"ipFamilyPolicy": "PreferDualStack", "selector": {"app": name}, "ports": ports, **spec},
    }


def policy(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy; without a spec it denies all ingress of the namespace."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {}, **(spec or {"policyTypes": ["Ingress"]})},
    }


def on_node(lab: Lab, *command: str) -> str:
    """Output of a command in the node's namespace."""
    return lab.exec(lab.node().name, command, check=True).stdout


def nft_json(lab: Lab) -> list[dict[str, Any]]:
    """Everything in our tables, as nft(8) itself lists it."""
    found: list[dict[str, Any]] = []
    for family in ("inet", "bridge"):
        found += json.loads(on_node(lab, "nft", "-j", "list", "table", family, "fairway"))["nftables"]
    return found


def agent_pid(lab: Lab) -> int:
    """The process that serves the control socket."""
    wanted = str(lab.node().config_file)
    for pid in on_node(lab, "pgrep", "-f", f"fairway_cli.main agent --config {wanted}").split():
        command = _command(int(pid))
        if "nsenter" not in command[0] and "pgrep" not in command[0]:
            return int(pid)
    raise AssertionError("no agent is running")


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


def kill_agent(lab: Lab) -> None:
    """kill -9, and wait until it is gone."""
    pid = agent_pid(lab)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not _alive(pid), "the killed agent is gone")


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def eventually(holds: Callable[[], Any], what: str, timeout: float = 10.0) -> None:
    """Wait until `holds()` is true."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}")
        time.sleep(0.05)


def objects(lab: Lab, plural: str) -> list[Mapping[str, Any]]:
    """Documents of a kind."""
    items: list[Mapping[str, Any]] = call(lab.node().socket, "GET", f"/v1/objects/{plural}")["items"]
    return items


def cni(lab: Lab, station: StationPlan, command: str) -> str:
    """One CNI call through the shim: empty if it succeeded, else the error."""
    try:
        call_plugin(lab.node(), station, command)
    except (LabError, subprocess.TimeoutExpired) as error:
        return str(error)
    return ""
