"""/v1/cni: what the shim sends, carried out by the attacher, answered in the words of the CNI spec."""

from __future__ import annotations

import logging

from aiohttp import web

from fairway_agent.metrics import Metrics
from fairway_cni.attach import Attacher
from fairway_cni.faults import as_cni_error, body_of
from fairway_cni.protocol import Request, parse, version_of
from fairway_cni.result import render_result
from fairway_core.clock import Clock

EXIT_HEADER = "X-Fairway-Exit"
OK = "0"
FAILED = "1"


class CniRoutes:
    """One path for all verbs. A fault of the input is an answer, never an exception."""

    def __init__(self, attacher: Attacher, metrics: Metrics, clock: Clock, log: logging.Logger) -> None:
        self._attacher = attacher
        self._metrics = metrics
        self._clock = clock
        self._log = log

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/cni", self.call)]

    async def call(self, http: web.Request) -> web.Response:
        started = self._clock.monotonic()
        body = await http.read()
        command, code = "unknown", 0
        try:
            request = parse(body)
            command = request.command
            answer, exit_code = await self._carry_out(request), OK
        except Exception as fault:
            error = as_cni_error(fault)
            code = error.code
            answer, exit_code = body_of(error, version_of(body)), FAILED
            self._log.warning("CNI call failed", extra={"command": command, "code": code, "error": str(error)})
        seconds = self._clock.monotonic() - started
        self._metrics.cni.labels(command, str(code)).observe(seconds)
        return web.Response(body=answer, headers={EXIT_HEADER: exit_code, "Content-Type": "application/json"})

    async def _carry_out(self, request: Request) -> bytes:
        attacher = self._attacher
        extra = {"container": request.container_id, "ifname": request.ifname, "netns": request.netns, "trace": request.trace}
        self._log.info("CNI %s", request.command, extra=extra)
        match request.command:
            case "ADD":
                return render_result(await attacher.add(request), request.config.cni_version)
            case "DEL":
                await attacher.delete(request)
            case "CHECK":
                await attacher.check(request)
            case "GC":
                await attacher.collect(request)
            case _:
                await attacher.status()
        return b""
