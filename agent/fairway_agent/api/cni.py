"""/v1/cni and /v1/ipam: what the shim sends, measured and handed to the CNI component."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from fairway_agent.api.door import EXIT_HEADER
from fairway_agent.metrics import Metrics
from fairway_cni.handler import Answer, CniHandler
from fairway_core.clock import Clock

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS")


Failed = Callable[[bytes, bytes], None]
"""Called with the body of a call and that of its answer."""


def ignore(body: bytes, answer: bytes) -> None:
    """Nobody wants to know."""


class CniRoutes:
    """One path for all verbs: a call is answered with HTTP 200 whatever CNI says about it."""

    def __init__(self, handler: CniHandler, metrics: Metrics, clock: Clock, failed: Failed = ignore) -> None:
        """`failed` hears of every call that is answered with an error, after the answer is made."""
        self._handler = handler
        self._failed = failed
        self._metrics = metrics
        self._clock = clock

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/cni", self.call), web.get("/v1/ipam", self.ipam)]

    async def ipam(self, request: web.Request) -> web.Response:
        """Address ranges and who holds what of them."""
        ranges = [
            {
                "range": use.range,
                "size": use.size,
                "used": len(use.holders),
                "holders": [{"ip": ip, "owner": owner} for ip, owner in use.holders.items()],
            }
            for use in self._handler.address_use()
        ]
        return web.json_response({"ranges": ranges})

    async def call(self, request: web.Request) -> web.Response:
        answer = await self.carry_out(await request.read())
        headers = {EXIT_HEADER: str(answer.exit_code), "Content-Type": "application/json"}
        return web.Response(body=answer.body, headers=headers)

    async def carry_out(self, body: bytes) -> Answer:
        """One call, measured, however it came here."""
        started = self._clock.monotonic()
        answer = await self._handler.handle(body)
        self._metrics.cni.labels(_command(body), str(answer.exit_code)).observe(self._clock.monotonic() - started)
        if answer.exit_code:
            self._failed(body, answer.body)
        return answer


def _command(body: bytes) -> str:
    """The verb for the metric's label: one of a fixed few, whatever the body says."""
    found = body.partition(b"CNI_COMMAND=")[2].partition(b"\0")[0].decode(errors="replace")
    return found if found in COMMANDS else "unknown"
