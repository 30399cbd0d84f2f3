"""Problems of the node and failures of CNI calls, turned into incidents about the objects they concern."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fairway_agent.problems import Problems
from fairway_cni import faults
from fairway_cni.faults import CniError
from fairway_cni.protocol import parse
from fairway_core.clock import Clock
from fairway_core.errors import UserError
from fairway_core.keys import BY_NAME, Key
from fairway_core.world import World
from fairway_store.kubernetes.events import Incident

Tell = Callable[[Incident], None]
PERSISTENT_SECONDS = 5.0
"""A problem that is over sooner is nobody's business but the log's."""
TICK_SECONDS = 1.0
DRIFT_SECONDS = 600.0
DRIFT_LIMIT = 20
"""More repairs of one part within DRIFT_SECONDS mean that another program keeps changing what is ours."""
UNSENT = "store"
"""Problems with the API server itself cannot be told to it."""


@dataclass(frozen=True, slots=True)
class Sort:
    """How problems of a sort are told. `kind`: what the rest of their key names, where it does not say it itself."""

    reason: str
    kind: str = ""
    shared: bool = False
    """Every node sees the same."""


SORTS: Mapping[str, Sort] = {
    "nft": Sort("RulesNotInPlace"),
    "node": Sort("NodeNotSetUp"),
    "sysctl": Sort("KernelSettingsWrong"),
    "dns": Sort("NamesNotServed"),
    "cluster-dns": Sort("NamesNotServed"),
    "drift": Sort("ChangedByOthers"),
    "node-ranges": Sort("PodCIDRChanged"),
    "node-missing": Sort("NodeMissing"),
    "peer-range": Sort("PodCIDRConflict", "Node", shared=True),
    "peer-route": Sort("NoRouteToNode"),
    "health-port": Sort("HealthPortTaken"),
    "health-port-claim": Sort("HealthPortTaken", "Service", shared=True),
    "tenants": Sort("TenantsDisagree", "Namespace", shared=True),
    "object": Sort("NotUnderstood", shared=True),
    "pod-ip": Sort("AddressConflict", shared=True),
    "pod-range": Sort("AddressOutsideRange"),
}
OTHER = Sort("NetworkProblem")


def incident_of(problem: str, text: str, node: str, world: World) -> Incident:
    """The incident of an open problem: about the object its key names after the colon, else about the node."""
    name, _, rest = problem.partition(":")
    sort = SORTS.get(name, OTHER)
    about = _key(f"{sort.kind}/{rest}" if sort.kind else rest) or Key("Node", "", node)
    return Incident(about, sort.reason, text, _uid(world, about), sort.shared)


def _key(text: str) -> Key | None:
    kind, *place = text.split("/")
    if kind not in BY_NAME or len(place) != 1 + BY_NAME[kind].namespaced:
        return None
    return Key(kind, place[0] if len(place) == 2 else "", place[-1])


def _uid(world: World, key: Key) -> str:
    item = world.get(key)
    return item.meta.uid if item is not None else ""


class ProblemTeller:
    """Tells of each problem once, when it has been open for PERSISTENT_SECONDS."""

    def __init__(self, problems: Problems, node: str, world: Callable[[], World], tell: Tell, clock: Clock) -> None:
        self._problems = problems
        self._node = node
        self._world = world
        self._tell = tell
        self._clock = clock
        self._since: dict[str, float] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.round()
            await asyncio.sleep(TICK_SECONDS)

    def round(self) -> None:
        """Look at what is open."""
        now = self._clock.monotonic()
        found = {key: text for key, text in self._problems.open().items() if key.partition(":")[0] != UNSENT}
        self._since = {key: self._since.get(key, now) for key in found}
        self._told &= found.keys()
        for key, text in sorted(found.items()):
            if key not in self._told and now - self._since[key] >= PERSISTENT_SECONDS:
                self._told.add(key)
                self._tell(incident_of(key, text, self._node, self._world()))


class DriftAlarm:
    """Opens a problem while something of ours is put back again and again."""

    def __init__(self, repairs: Callable[[], Mapping[str, float]], problems: Problems, clock: Clock) -> None:
        """`repairs`: how many there have been so far, by part."""
        self._repairs = repairs
        self._problems = problems
        self._clock = clock
        self._seen: deque[tuple[float, Mapping[str, float]]] = deque()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.round()
            await asyncio.sleep(TICK_SECONDS * 10)

    def round(self) -> None:
        """Compare with what there was DRIFT_SECONDS ago."""
        now, counts = self._clock.monotonic(), dict(self._repairs())
        self._seen.append((now, counts))
        while now - self._seen[0][0] > DRIFT_SECONDS:
            self._seen.popleft()
        for part, count in counts.items():
            recent = count - self._seen[0][1].get(part, 0)
            if recent > DRIFT_LIMIT:
                text = f"{part}: another program keeps changing what is ours; it is put back each time"
                self._problems.report(f"drift:{part}", text, blocking=False)
            else:
                self._problems.clear(f"drift:{part}")


def add_failure(body: bytes, answer: bytes, world: World) -> Incident | None:
    """The incident of a failed call; None unless it is an ADD for a container of a known Pod."""
    try:
        request, said = parse(body), json.loads(answer)
    except (CniError, UserError, ValueError):
        return None
    if request.command != "ADD" or not request.args.name or not isinstance(said, dict):
        return None
    key = Key("Pod", request.args.namespace or "default", request.args.name)
    uid = request.args.uid or _uid(world, key)
    return Incident(key, add_reason(said), _words(said), uid) if uid or world.get(key) else None


def add_reason(said: Mapping[str, Any]) -> str:
    """Why an ADD failed, in one CamelCase word."""
    return {
        faults.ADDRESS: "NoAddress",
        faults.HOST_PORT: "HostPortTaken",
        faults.TRY_LATER: "NetworkNotReady",
        faults.CONFIG: "NetworkConfiguration",
    }.get(said.get("code") or 0, "NetworkSetupFailed")


def _words(said: Mapping[str, Any]) -> str:
    return ": ".join(str(said[part]) for part in ("msg", "details") if said.get(part)) or "the container cannot be attached"
