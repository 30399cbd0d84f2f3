"""Routes to the pods of other nodes, kept equal to the list of Nodes (`routing: direct`)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairway_agent.problems import Problems
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.model import family_of
from fairway_core.peers import Claims, claims
from fairway_core.world import World
from fairway_kernel.link.objects import LinkManager

RETRY_SECONDS = 10.0
"""A gateway may come within reach without a word to us: its link came up, somebody else's route went."""
RANGE, ROUTE = "peer-range", "peer-route"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """This node among others: its name, its pod ranges, the ranges of services, and whether it sets up routes at all."""

    name: str
    pod_cidrs: tuple[str, ...]
    service_cidrs: tuple[str, ...]
    direct: bool


class PeerRouting:
    """Follows the Nodes of the world; the kernel's part is done by worker threads, one at a time.

    Each node whose range or address cannot be obeyed is a problem of its own, which leaves the node ready: the other nodes and
    this node's own containers are served.
    """

    def __init__(self, links: LinkManager, here: Surroundings, problems: Problems, log: logging.Logger) -> None:
        self._links = links
        self._here = here
        self._problems = problems
        self._log = log
        self._claims: Claims | None = None
        self._applied: Claims | None = None
        self._installed = 0
        self._told: set[str] = set()
        self._waiting = False
        self._wake = asyncio.Event()
        self._busy = asyncio.Lock()

    @property
    def installed(self) -> int:
        """Routes that are in place."""
        return self._installed

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """See `Subscriber`."""
        if self._claims is not None and not any(key.kind == "Node" for key in touched):
            return
        here = self._here
        found = claims(after.nodes(), here.name, here.pod_cidrs, here.service_cidrs)
        if found != self._claims:
            self._claims = found
            self._wake.set()

    async def run(self) -> None:
        """Keep the routes until cancelled."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), RETRY_SECONDS if self._waiting else None)
            self._wake.clear()
            await self.ensure()

    async def ensure(self) -> bool:
        """Bring the kernel's routes to what they must be; whether any were not as we left them.

        Before the Nodes are known those of an earlier agent stay as they are.
        """
        async with self._busy:
            found, known = self._claims, self._applied
            if found is None:
                return False
            wanted = {peer.cidr: peer.gateway for peer in found.peers if peer.gateway} if self._here.direct else {}
            try:
                done = await asyncio.to_thread(self._links.ensure_peer_routes, wanted)
            except KernelError as error:
                self._waiting = True
                self._problems.report(ROUTE, f"routes to other nodes are not in place: {error}")
                return False
            self._problems.clear(ROUTE)
            self._applied = found
            self._installed = len(wanted) - len(done.refused)
            self._waiting = bool(done.refused)
            self._report(found, done.refused)
            if done.changed:
                self._log.info("routes to other nodes", extra={"changed": done.changed, "installed": self._installed})
            return bool(done.changed) and found == known

    def _report(self, found: Claims, refused: Mapping[str, str]) -> None:
        faults = {f"{RANGE}:{node}": f"node {node}: {text}" for node, text in found.faults}
        for peer in found.peers if self._here.direct else ():
            why = refused.get(peer.cidr, "") if peer.gateway else f"it has no InternalIP of family IPv{family_of(peer.cidr)}"
            if why:
                faults[f"{ROUTE}:{peer.node}"] = f"node {peer.node}: no route to its pods, {peer.cidr}: {why}"
        for key in self._told - faults.keys():
            self._problems.clear(key)
        for key, text in sorted(faults.items()):
            self._problems.report(key, text, blocking=False)
        self._told = set(faults)


def after(routing: PeerRouting, recover: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[bool]]:
    """What drift does about links: put the routes back, then `recover`; whether either found anything wrong."""

    async def both() -> bool:
        lost = await routing.ensure()
        return bool(await recover()) or lost

    return both


class PeerCollector(Collector):
    """Routes to other nodes, at scrape time."""

    def __init__(self, routing: PeerRouting) -> None:
        self._routing = routing

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily("fairway_peer_routes", "Routes to other nodes' pods that are in place")
        family.add_metric([], self._routing.installed)
        return [family]
