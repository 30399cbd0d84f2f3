"""Make what a plan says, and remove it.

Promise: `build` makes everything or nothing; `down` works from any process, after any crash, any number of times.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path

from fairway_core.errors import FairwayError, NotFoundError, UserError
from fairway_kernel import netns
from fairway_netlab import helper
from fairway_netlab.attach import attach
from fairway_netlab.control import call, request
from fairway_netlab.plan import LabPlan, NodePlan, StationPlan
from fairway_netlab.processes import LabError, in_container, in_namespace, kill_in, run, start
from fairway_netlab.state import LabState, load_state

READY_SECONDS = 30.0
HELPER_SECONDS = 10.0
LIVE_SECONDS = 30
PROGRAMS = ("nsenter", "unshare", "ip", "mount")

Say = Callable[[str], None]
Process = subprocess.Popen[bytes]


def check_machine() -> None:
    """Raises UserError if laboratories cannot be built here."""
    if os.geteuid() != 0:
        raise UserError("a laboratory makes network namespaces: run it as root")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise UserError(f"programs are missing: {', '.join(missing)} (packages util-linux, mount and iproute2)")


def build(state: LabState, base: Path, say: Say, started: list[Process]) -> None:
    """Everything, in order. Relative manifest paths start at `base`. Raises LabError and others; the caller then calls `down`.

    Every process is put into `started` at once: an exception that a signal handler raises while a forgotten Popen object is
    being finalized would be swallowed, and the interruption with it.
    """
    plan = state.plan
    for name in plan.namespaces:
        netns.create(name)
    for name, batch in plan.wiring:
        run(["ip", "-n", name, "-batch", "-"], batch)
    say(f"{len(plan.nodes)} nodes, {len(plan.stations)} containers and hosts")
    for node in plan.nodes:
        started.append(start_agent(node))
    for station in plan.stations:
        started.append(start_helper(station))
    for node, agent in zip(plan.nodes, started, strict=False):
        await_agent(node, agent)
        say(f"agent of {node.name} is ready")
    _apply_manifests(plan, base)
    for station in plan.stations:
        if station.node:
            state.addresses[station.title] = attach(plan.node(station.node), station)
            say(f"{station.title} has {', '.join(state.addresses[station.title])}")
    state.save()
    for station in plan.stations:
        await_helper(station)


def start_agent(node: NodePlan) -> Process:
    """The node's own agent, as a user would run it, inside the node's namespace."""
    node.directory.mkdir(parents=True, exist_ok=True)
    # JSON is YAML too.
    node.config_file.write_text(json.dumps(node.config, indent=1))
    command = [sys.executable, "-m", "fairway_cli.main", "agent", "--config", str(node.config_file)]
    return start(in_namespace(node.netns, command), node.log_file)


def await_agent(node: NodePlan, process: Process | None = None, timeout: float = READY_SECONDS) -> None:
    """Return when the agent says it is ready. Raises LabError with its reasons or the end of its log."""
    deadline = time.monotonic() + timeout
    reason = "does not answer"
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise LabError(f"the agent of {node.name} ended with {process.returncode}: {_tail(node.log_file)}")
        try:
            status, body = request(node.socket, "GET", "/readyz", timeout=5)
        except (OSError, HTTPException):
            time.sleep(0.02)
            continue
        if status == 200:
            return
        reason = body.decode(errors="replace").strip()
        time.sleep(0.05)
    raise LabError(f"the agent of {node.name} is not ready after {timeout:g} s: {reason}; log: {_tail(node.log_file)}")


def start_helper(station: StationPlan) -> Process:
    """The process that serves and probes inside the container."""
    station.directory.mkdir(parents=True, exist_ok=True)
    resolv = station.resolv_file if station.resolv_conf else None
    if resolv:
        resolv.write_text(station.resolv_conf)
    ports = [f"{item.protocol}/{item.port}" for item in station.serve]
    # Without site packages: half the start-up time, and nothing of ours is needed inside.
    command = [sys.executable, "-I", "-S", str(helper.__file__), station.name, str(station.control), *ports]
    return start(in_container(station.netns, resolv, command), station.directory / "helper.log")


def await_helper(station: StationPlan) -> None:
    """Return when the helper serves. Raises LabError with the end of its log."""
    deadline = time.monotonic() + HELPER_SECONDS
    while not station.control.exists():
        if time.monotonic() > deadline:
            raise LabError(f"the helper of {station.title} does not start: {_tail(station.directory / 'helper.log')}")
        time.sleep(0.005)


def _apply_manifests(plan: LabPlan, base: Path) -> None:
    if not plan.manifests:
        return
    from fairway_core.documents import validate

    documents = [
        dict(loaded.document)
        for name in plan.manifests
        for loaded in validate(str(base / name), (base / name).read_text(encoding="utf-8"))
    ]
    for node in plan.nodes:
        apply(node, documents)


def apply(node: NodePlan, documents: Sequence[Mapping[str, object]]) -> int:
    """Apply documents at one node and wait until they are live there; the revision. Raises LabError."""
    revision = int(call(node.socket, "POST", "/v1/apply", {"documents": list(documents), "dryRun": False})["revision"])
    call(node.socket, "GET", f"/v1/wait?revision={revision}&timeout={LIVE_SECONDS}", timeout=LIVE_SECONDS + 5)
    return revision


def _tail(log: Path) -> str:
    try:
        return log.read_text(errors="replace")[-2000:].strip() or "(empty log)"
    except OSError as error:
        return str(error)


def down(name: str, root: Path) -> bool:
    """Remove a laboratory: processes, namespaces, files. False if there is none. Raises an ExceptionGroup of what went wrong."""
    try:
        state = load_state(name, root)
    except NotFoundError:
        _remove_empty(root / name)
        return False
    faults: list[Exception] = []
    namespaces = state.plan.namespaces
    try:
        kill_in(namespaces, state.directory)
    except FairwayError as error:
        faults.append(error)
    for namespace in namespaces:
        try:
            netns.delete(namespace)
        except (FairwayError, OSError) as error:
            faults.append(error)
    # Two processes may be at it (an owner and its guard): what is gone is gone.
    shutil.rmtree(state.directory, ignore_errors=True)
    if faults:
        raise ExceptionGroup(f"laboratory {name} is not wholly removed", faults)
    return True


def _remove_empty(directory: Path) -> None:
    """A laboratory that was interrupted before its state was written has an empty directory; anything else is not ours."""
    try:
        (directory / ".state.json").unlink(missing_ok=True)
        directory.rmdir()
    except OSError:
        return
