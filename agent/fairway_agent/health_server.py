"""The listeners behind kube-proxy's health port and the healthCheckNodePorts of services, opened and closed with the world."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from aiohttp import web

from fairway_agent.freshness import TICK_SECONDS, Freshness
from fairway_agent.health import Answer, HealthCheck, Name, checks_changed, eligible, proxy_health
from fairway_agent.problems import Problems
from fairway_core.clock import Clock
from fairway_core.keys import Key
from fairway_core.world import World

RETRY_SECONDS = 2.0
"""A port may be another program's for a while: kube-proxy's, for one, until it has gone."""
SHUTDOWN_SECONDS = 0.1
Place = tuple[str, int]
"""Host and port; an empty host is every address of both families."""


def place_of(address: str) -> Place | None:
    """`HOST:PORT` or `[HOST]:PORT`, checked before; None for an empty text."""
    host, _, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if address else None


class Listeners:
    """Keeps the sockets of one application equal to what is wanted. One that cannot be had is a problem, and tried again."""

    def __init__(self, app: web.Application, problems: Problems) -> None:
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
        self._problems = problems
        self._open: dict[Place, web.TCPSite] = {}
        self._failed: set[Place] = set()

    async def start(self) -> None:
        await self._runner.setup()

    async def close(self) -> None:
        await self._runner.cleanup()

    @property
    def failed(self) -> bool:
        """Whether any wanted socket could not be had."""
        return bool(self._failed)

    async def settle(self, wanted: dict[Place, str]) -> None:
        """Listen at exactly these places; the text says for whom."""
        for place in [place for place in self._open if place not in wanted]:
            await self._open.pop(place).stop()
        for place in self._failed - wanted.keys():
            self._problems.clear(_problem(place))
        self._failed &= wanted.keys()
        for place in sorted(wanted.keys() - self._open.keys()):
            await self._listen(place, wanted[place])

    async def _listen(self, place: Place, purpose: str) -> None:
        site = web.TCPSite(self._runner, place[0] or None, place[1])
        try:
            await site.start()
        except OSError as error:
            with suppress(RuntimeError):
                await site.stop()
            self._failed.add(place)
            text = f"{purpose}: cannot listen on port {place[1]}: {error.strerror or error}"
            self._problems.report(_problem(place), text, blocking=False)
            return
        self._open[place] = site
        self._failed.discard(place)
        self._problems.clear(_problem(place))


def _problem(place: Place) -> str:
    return f"health-port:{place[0]}:{place[1]}"


class HealthServer:
    """Answers load balancers about this node and its services; follows the world.

    Event-loop only; no answer waits for anything.
    """

    def __init__(self, node: str, listen: Place | None, freshness: Freshness, clock: Clock, problems: Problems) -> None:
        """`listen` is kube-proxy's port; None: nobody asks."""
        self._node = node
        self._listen = listen
        self._freshness = freshness
        self._clock = clock
        self._problems = problems
        self._world = World()
        self._checks: dict[Name, HealthCheck] = {}
        self._by_port: dict[int, HealthCheck] = {}
        self._collisions: set[str] = set()
        self._wake = asyncio.Event()
        main, ports = web.Application(), web.Application()
        main.add_routes([web.get("/healthz", self._healthz), web.get("/livez", self._livez)])
        ports.add_routes([web.get("/{path:.*}", self._check)])
        self._main, self._ports = Listeners(main, problems), Listeners(ports, problems)

    async def start(self) -> None:
        """Listen. The node is not healthy before its first rules are live."""
        await self._main.start()
        await self._ports.start()
        await self._settle()

    async def close(self) -> None:
        await self._main.close()
        await self._ports.close()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """See `Subscriber`."""
        self._world = after
        found = checks_changed(before, after, touched, self._node)
        changed = {name: check for name, check in found.items() if self._checks.get(name) != check}
        for name, check in changed.items():
            if check is None:
                del self._checks[name]
            else:
                self._checks[name] = check
        if changed:
            self._assign()
            self._wake.set()

    def _assign(self) -> None:
        """Each port to the first of the services that claim it; the others are named."""
        self._by_port, told = {}, set[str]()
        for check in sorted(self._checks.values()):
            first = self._by_port.setdefault(check.port, check)
            if first != check:
                key = f"health-port-claim:{check.namespace}/{check.name}"
                mine, other = f"Service/{check.namespace}/{check.name}", f"Service/{first.namespace}/{first.name}"
                text = f"{mine}: healthCheckNodePort {check.port} is answered for {other}"
                self._problems.report(key, text, blocking=False)
                told.add(key)
        for key in self._collisions - told:
            self._problems.clear(key)
        self._collisions = told

    async def run(self) -> None:
        """Open and close ports, and notice what becomes stale, until cancelled."""
        last = self._clock.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), TICK_SECONDS)
            self._freshness.look()
            due = (self._main.failed or self._ports.failed) and self._clock.monotonic() - last >= RETRY_SECONDS
            if self._wake.is_set() or due:
                self._wake.clear()
                last = self._clock.monotonic()
                await self._settle()

    async def _settle(self) -> None:
        await self._main.settle({self._listen: "health.listen"} if self._listen else {})
        places = {("", port): f"Service/{check.namespace}/{check.name}" for port, check in self._by_port.items()}
        await self._ports.settle(places)

    async def _healthz(self, request: web.Request) -> web.Response:
        return _response(self._proxy_health(eligible(self._world, self._node)))

    async def _livez(self, request: web.Request) -> web.Response:
        return _response(self._proxy_health(None))

    def _proxy_health(self, stays: bool | None) -> Answer:
        return proxy_health(self._freshness.look(), self._freshness.updated, self._clock.wall(), stays)

    async def _check(self, request: web.Request) -> web.Response:
        name = request.transport.get_extra_info("sockname") if request.transport else None
        check = self._by_port.get(name[1]) if name else None
        if check is None:
            return web.Response(status=404)
        return _response(check.answer(self._freshness.look()))


def _response(answer: Answer) -> web.Response:
    response = web.json_response(answer.body, status=answer.status)
    response.headers.update(answer.headers)
    return response
