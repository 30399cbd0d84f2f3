"""What an agent answers before it can work: why not, at the addresses it will have later.

Without this an agent that waits for its API server, for its Node object or for pod ranges would look the same as none at all.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from aiohttp import web

from fairway_agent.api.door import EXIT_HEADER
from fairway_agent.api.insight import HealthRoutes
from fairway_agent.api.server import ControlServer, application, serve_tcp, serve_unix
from fairway_agent.metrics import Metrics
from fairway_agent.problems import Problems
from fairway_agent.status import FIRST_STATE
from fairway_cni import faults
from fairway_cni.faults import CniError, body_of
from fairway_cni.handler import Answer
from fairway_cni.protocol import split_body, version_of
from fairway_core.errors import StoreUnavailable

WAITING = "start"
"""The problem that says what a start waits for."""
NOT_DONE = 2
"""No exit code of a plugin: the executable then does what it does without an agent, and keeps a deletion for later."""


class Starting:
    """The state of a node whose agent is not at work yet."""

    def __init__(self, node: str, version: str, problems: Problems) -> None:
        self._node = node
        self._version = version
        self._problems = problems

    @property
    def ready(self) -> bool:
        return False

    def reasons(self) -> list[str]:
        """Why the node is not ready: also what is no obstacle later, such as an API server that is away."""
        return [FIRST_STATE, *self._problems.texts()]

    def as_json(self) -> dict[str, Any]:
        """The body of GET /v1/status."""
        return {
            "node": self._node,
            "version": self._version,
            "revision": 0,
            "live": {},
            "ready": False,
            "problems": self.reasons(),
            "unenforced": {"counts": {}, "objects": []},
            "counts": {},
        }

    async def call(self, body: bytes) -> Answer:
        """A CNI call: it is to be tried again, or, a deletion, kept."""
        try:
            command = split_body(body)[0].get("CNI_COMMAND", "")
        except CniError as fault:
            return Answer(1, body_of(fault, version_of(body)))
        if command == "DEL":
            return Answer(NOT_DONE, b"", command)
        code = faults.NOT_AVAILABLE if command == "STATUS" else faults.TRY_LATER
        error = CniError(code, "the agent is starting", "; ".join(self.reasons()))
        return Answer(1, body_of(error, version_of(body)))


class EarlyServer:
    """The control socket and the metrics address, from the agent's first moment until it is at work."""

    def __init__(self, state: Starting, metrics: Metrics, log: logging.Logger) -> None:
        self._state = state
        self._health = HealthRoutes(state, metrics).routes()
        self._log = log
        self._servers: list[ControlServer | web.AppRunner] = []

    async def open(self, socket: Path, metrics: str) -> None:
        """Listen; `metrics` is HOST:PORT, or empty. Raises ConflictError if another agent is alive, UserError as serve_tcp."""
        own = [web.get("/v1/status", self._status), web.post("/v1/cni", self._cni), web.route("*", "/{rest:.*}", self._refuse)]
        self._servers.append(await serve_unix(application([*self._health, *own], self._log), socket, self._state.call, self._log))
        if metrics:
            host, _, port = metrics.rpartition(":")
            self._servers.append(await serve_tcp(application(self._health, self._log), host.strip("[]"), int(port)))

    async def close(self) -> None:
        """Make room for the agent at work. Idempotent."""
        servers, self._servers = self._servers, []
        await asyncio.gather(*(server.cleanup() for server in servers))

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._state.as_json())

    async def _cni(self, request: web.Request) -> web.Response:
        answer = await self._state.call(await request.read())
        headers = {EXIT_HEADER: str(answer.exit_code), "Content-Type": "application/json"}
        return web.Response(body=answer.body, headers=headers)

    async def _refuse(self, request: web.Request) -> web.Response:
        raise StoreUnavailable("the agent is starting: " + "; ".join(self._state.reasons()))
