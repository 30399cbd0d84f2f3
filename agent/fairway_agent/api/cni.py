"""/v1/cni: what the shim sends, measured and handed to the CNI component."""

from __future__ import annotations

from aiohttp import web

from fairway_agent.metrics import Metrics
from fairway_cni.handler import CniHandler
from fairway_core.clock import Clock

EXIT_HEADER = "X-Fairway-Exit"


class CniRoutes:
    """One path for all verbs: a call is answered with HTTP 200 whatever CNI says about it."""

    def __init__(self, handler: CniHandler, metrics: Metrics, clock: Clock) -> None:
        self._handler = handler
        self._metrics = metrics
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/cni", self.call)]

    async def call(self, request: web.Request) -> web.Response:
        started = self._clock.monotonic()
        answer = await self._handler.handle(await request.read())
        self._metrics.cni.labels(answer.command, str(answer.exit_code)).observe(self._clock.monotonic() - started)
        headers = {EXIT_HEADER: str(answer.exit_code), "Content-Type": "application/json"}
        return web.Response(body=answer.body, headers=headers)
