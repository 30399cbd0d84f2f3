"""The cluster's DNS Service while the agent runs: appears, moves to another address, goes. Our workers answer wherever it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from fairway_agent.cluster import DNS_SERVICE
from fairway_agent.node import Node
from fairway_agent.problems import Problems
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.model import Service
from fairway_core.world import SERVICE_IP, World
from fairway_dns.supervise import WorkerSupervisor

RETRY_SECONDS = 2.0
GRACE_SECONDS = 2.0
"""After this long the rules are in force, and what was on its way has been answered."""
PROBLEM = "cluster-dns"

Step = Callable[[tuple[str, ...]], Awaitable[None]]


class ServedAddresses:
    """Which addresses are answered. Pure.

    Promise: the configured ones always; those of the cluster's DNS Service as soon as it has them, and afterwards for as long as
    the process lives, because containers keep the address they were started with, unless another Service gets them.
    """

    def __init__(self, configured: Sequence[str], now: Sequence[str]) -> None:
        """`now`: all that are answered already."""
        self._configured = tuple(configured)
        self._learnt = tuple(ip for ip in now if ip not in configured)

    @property
    def addresses(self) -> tuple[str, ...]:
        return (*self._configured, *self._learnt)

    def follow(self, world: World, touched: Iterable[Key]) -> bool:
        """Take over a step; whether the addresses are others now."""
        if not any(key.kind == "Service" for key in touched):
            return False
        service = world.get(DNS_SERVICE)
        has = service.cluster_ips if isinstance(service, Service) else ()
        known = dict.fromkeys((*self._learnt, *(ip for ip in has if ip not in self._configured)))
        kept = tuple(ip for ip in known if ip in has or not self._taken(world, ip))
        changed, self._learnt = kept != self._learnt, kept
        return changed

    @staticmethod
    def _taken(world: World, ip: str) -> bool:
        return any(key != DNS_SERVICE for key in world.keys_at(SERVICE_IP, ip))


def listener(node: Node, workers: Sequence[WorkerSupervisor], argv: Callable[[int, tuple[str, ...]], Sequence[str]]) -> Step:
    """Brings up addresses: on the node, then at each worker, whose command line `argv` tells by its number."""

    async def listen(addresses: tuple[str, ...]) -> None:
        node.answer_on(addresses)
        await asyncio.to_thread(node.ensure)
        for number, worker in enumerate(workers):
            await worker.change(argv(number, addresses))

    return listen


class ClusterDns:
    """Carries changes out so that no query falls between: listen first, then the rules, then stop listening.

    `listen` brings up workers and the node's addresses; `rules` is told which addresses are kept out of balancing.
    """

    def __init__(
        self,
        served: ServedAddresses,
        listen: Step,
        rules: Callable[[tuple[str, ...]], None],
        problems: Problems,
        log: logging.Logger,
    ) -> None:
        self._served = served
        self._listen = listen
        self._rules = rules
        self._problems = problems
        self._log = log
        self._current = served.addresses
        self._wake = asyncio.Event()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """See `Subscriber`."""
        if self._served.follow(after, touched):
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            wanted = self._served.addresses
            if wanted == self._current:
                continue
            try:
                await self._move(wanted)
            except (OSError, KernelError) as error:
                self._problems.report(PROBLEM, f"DNS is not answered on {', '.join(wanted)} yet: {error}", blocking=False)
                asyncio.get_running_loop().call_later(RETRY_SECONDS, self._wake.set)
            else:
                self._problems.clear(PROBLEM)

    async def _move(self, wanted: tuple[str, ...]) -> None:
        both = tuple(dict.fromkeys((*self._current, *wanted)))
        if both != self._current:
            await self._listen(both)
            self._current = both
        self._rules(wanted)
        if both != wanted:
            await asyncio.sleep(GRACE_SECONDS)
            await self._listen(wanted)
            self._current = wanted
        self._log.info("DNS is answered on other addresses", extra={"dns": list(wanted)})
