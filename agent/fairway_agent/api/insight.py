"""/v1/status, /v1/wait, /v1/why, /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from fairway_agent.api.body import json_object, number_parameter
from fairway_agent.api.lingering import lingering
from fairway_agent.live import LiveRevisions
from fairway_agent.metrics import Metrics
from fairway_agent.reconcile import Reconciler
from fairway_agent.status import Readiness, Status
from fairway_core.errors import StoreUnavailable, UserError
from fairway_policy.explain import explain

MAX_WAIT_SECONDS = 300.0

Page = Callable[[web.Request], Any]
Hidden = Callable[[str, str], Awaitable[str]]


class HealthRoutes:
    """What monitoring asks; also served on `metrics.listen`."""

    def __init__(self, status: Readiness, metrics: Metrics) -> None:
        self._status = status
        self._metrics = metrics

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    async def healthz(self, request: web.Request) -> web.Response:
        """200 while the process answers: a problem on the node is no reason to restart the agent."""
        return web.Response(text="ok\n")

    async def readyz(self, request: web.Request) -> web.Response:
        """200 once the first full state is live and while nothing is wrong; else 503 with the reasons."""
        if self._status.ready:
            return web.Response(text="ok\n")
        return web.Response(status=503, text="\n".join(self._status.reasons()) + "\n")

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class InsightRoutes:
    """What people ask."""

    def __init__(self, status: Status, live: LiveRevisions, reconciler: Reconciler, hidden: Hidden | None = None) -> None:
        """`hidden` tells why the name of a service does not exist for a pod; empty if it does."""
        self._hidden = hidden
        self._status = status
        self._live = live
        self._reconciler = reconciler

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/status", self.status), web.get("/v1/wait", self.wait), web.post("/v1/why", self.why)]

    async def status(self, request: web.Request) -> web.Response:
        return web.json_response(self._status.as_json())

    async def wait(self, request: web.Request) -> web.Response:
        revision = int(number_parameter(request, "revision", 0))
        timeout = min(number_parameter(request, "timeout", 30), MAX_WAIT_SECONDS)
        parts = self._live.snapshot()
        with lingering(request):
            reached = await self._live.wait(revision, parts, timeout)
        if not reached:
            behind = ", ".join(f"{part} at {at}" for part, at in self._live.snapshot().items() if at < revision)
            raise StoreUnavailable(f"revision {revision} is not live after {timeout:g} s: {behind}")
        return web.json_response({"live": self._live.snapshot()})

    async def why(self, request: web.Request) -> web.Response:
        body = await json_object(request, "source", "destination", "port", "protocol")
        source, destination = _text(body, "source"), _text(body, "destination")
        port, protocol = body.get("port"), body.get("protocol") or "TCP"
        if port is not None and (not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536):
            raise UserError(f"port: {port!r} is not a port number")
        if not isinstance(protocol, str):
            raise UserError("protocol: text is required")
        world = self._reconciler.world
        answer = explain(world, source, destination, port, protocol.upper())
        hidden = await self._hides(answer["source"], answer["destination"])
        if hidden:
            answer["lines"].append(f"its name does not exist for {source}: {hidden}")
        return web.json_response({**answer, "hidden": hidden, "revision": world.revision})

    async def _hides(self, source: Mapping[str, Any], destination: Mapping[str, Any]) -> str:
        if self._hidden is None or source.get("kind") != "Pod" or destination.get("kind") != "Service":
            return ""
        return await self._hidden(*(f"{end['namespace']}/{end['name']}" for end in (source, destination)))


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise UserError(f"{name}: text is required")
    return value
