"""A running laboratory, as tests and commands use it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairway_core.errors import ConflictError, UserError
from fairway_kernel import netns
from fairway_netlab.attach import attach, detach
from fairway_netlab.control import call
from fairway_netlab.guard import Guard
from fairway_netlab.plan import DEFAULT_ROOT, NETNS_DIR, LabPlan, NodePlan, StationPlan
from fairway_netlab.probe import Outcome, Target, probe_all
from fairway_netlab.processes import in_container, in_namespace, kill_in
from fairway_netlab.run import (
    Process,
    Say,
    apply,
    await_agent,
    await_helper,
    build,
    check_machine,
    down,
    start_agent,
    start_helper,
)
from fairway_netlab.state import LabState, load_state
from fairway_netlab.topology import Topology, topology_from

REAP_SECONDS = 5.0


class Lab:
    """Names are those of the topology: NODE, HOST, CONTAINER or NAMESPACE/CONTAINER. Everything blocks."""

    def __init__(self, state: LabState, guard: Guard | None = None, started: Sequence[Process] = ()) -> None:
        self._state = state
        self._guard = guard
        self._started = list(started)
        self.plan: LabPlan = state.plan

    @property
    def name(self) -> str:
        return self.plan.name

    def node(self, name: str = "") -> NodePlan:
        """A node; without a name the only one. Raises UserError."""
        return self.plan.node(name)

    def station(self, name: str) -> StationPlan:
        """A container or host. Raises UserError."""
        return self.plan.station(name)

    def netns(self, name: str) -> str:
        """The path of the network namespace of a node, container or host."""
        found = [node.netns for node in self.plan.nodes if node.name == name]
        return str(NETNS_DIR / (found[0] if found else self.station(name).netns))

    def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a container or host."""
        station = self.station(name)
        return self._state.addresses.get(station.title) or self.plan.addresses.get(station.name, ())

    def address(self, name: str, family: int = 4) -> str:
        """The address in one family. Raises UserError if it has none."""
        found = [address for address in self.addresses(name) if (":" in address) == (family == 6)]
        if not found:
            raise UserError(f"{name} has no IPv{family} address")
        return found[0]

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """The command line that runs `command` in a node, or in a container with its resolv.conf."""
        if any(node.name == name for node in self.plan.nodes):
            return in_namespace(self.node(name).netns, command)
        station = self.station(name)
        return in_container(station.netns, station.resolv_file if station.resolv_conf else None, command)

    def exec(
        self, name: str, command: Sequence[str], *, timeout: float = 30.0, check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run to the end inside a node, container or host. Raises CalledProcessError if `check`, TimeoutExpired."""
        return subprocess.run(
            self.command(name, command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=check,
        )

    def probe(self, source: str, targets: Sequence[Target], timeout: float = 1.0) -> list[Outcome]:
        """Try all targets from one container or host, at the same time."""
        return probe_all({self.station(source).control: targets}, timeout)[self.station(source).control]

    def request(self, node: str, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One call of a node's control API (agent/README.md). Raises LabError for an error answer."""
        return call(self.node(node).socket, method, path, body)

    def apply(self, documents: str | Sequence[Mapping[str, Any]], node: str = "") -> int:
        """Apply YAML text or documents at a node and wait until they are live; the revision. Raises UserError, LabError."""
        if isinstance(documents, str):
            from fairway_core.documents import validate

            documents = [dict(loaded.document) for loaded in validate("<text>", documents)]
        return apply(self.node(node), documents)

    def add(self, container: Mapping[str, Any]) -> tuple[str, ...]:
        """Attach another container, written as in a topology; its addresses."""
        given = self._state.topology.model_dump()
        given["containers"].append(dict(container))
        self._remember(topology_from(given))
        station = self.plan.stations[len(given["containers"]) - 1]
        try:
            netns.create(station.netns)
            self._started.append(start_helper(station))
            self._state.addresses[station.title] = attach(self.node(station.node), station)
            await_helper(station)
        except BaseException:
            self._forget(station)
            raise
        self._state.save()
        return self._state.addresses[station.title]

    def remove(self, name: str) -> None:
        """Detach a container and remove its namespace."""
        station = self.station(name)
        detach(self.node(station.node), station)
        self._forget(station)

    def _forget(self, station: StationPlan) -> None:
        kill_in([station.netns])
        netns.delete(station.netns)
        station.control.unlink(missing_ok=True)
        self._state.addresses.pop(station.title, None)
        given = self._state.topology.model_dump()
        given["containers"] = [item for item in given["containers"] if f"{item['namespace']}/{item['name']}" != station.title]
        self._remember(topology_from(given))

    def _remember(self, topology: Topology) -> None:
        self._state.topology = topology
        self._state.save()
        self.plan = self._state.plan

    def start_agent(self, node: str = "") -> None:
        """Start a node's agent again and wait until it is ready."""
        plan = self.node(node)
        self._started.append(start_agent(plan))
        await_agent(plan, self._started[-1])

    def keep(self) -> None:
        """Let the laboratory outlive this process; `fairway lab down` removes it."""
        if self._guard:
            self._guard.dismiss()

    def down(self) -> None:
        """Remove everything. Idempotent."""
        try:
            down(self.name, self._state.root)
            while self._started:
                self._started.pop().wait(REAP_SECONDS)
        finally:
            if self._guard:
                self._guard.close()


def up(topology: Topology, root: Path = DEFAULT_ROOT, base: Path | None = None, say: Say = lambda _: None) -> Lab:
    """Build a laboratory. Until `keep`, it goes when this process ends; if building fails or is interrupted, it goes at once.

    Relative manifest paths start at `base`. Raises UserError, ConflictError (it is up already), LabError.
    """
    check_machine()
    state = LabState(topology, root)
    _refuse_taken(state.plan)
    state.claim()
    guard: Guard | None = None
    started: list[Process] = []
    try:
        guard = Guard(topology.name, root)
        build(state, base or Path(), say, started)
        return Lab(state, guard, started)
    except BaseException:
        Lab(state, guard, started).down()
        raise


def _refuse_taken(plan: LabPlan) -> None:
    """What is there before us is not ours to remove, whatever its name."""
    taken = [] if plan.directory.exists() else [name for name in plan.namespaces if (NETNS_DIR / name).exists()]
    if taken:
        raise ConflictError(f"network namespaces of these names exist: {', '.join(taken)}; remove them with: ip netns del NAME")


def attached_lab(name: str, root: Path = DEFAULT_ROOT) -> Lab:
    """A laboratory that another process has built. Raises NotFoundError."""
    return Lab(load_state(name, root))
