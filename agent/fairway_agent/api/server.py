"""The two listeners: the control socket, and the metrics address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from fairway_agent.api import lingering
from fairway_agent.api.door import Call, Door
from fairway_agent.api.errors import error_middleware
from fairway_core.errors import UserError
from fairway_kernel.unixsocket import listen_unix

MAX_BODY = 64 << 20
SHUTDOWN_SECONDS = 2.0


def application(routes: Sequence[web.RouteDef], log: logging.Logger) -> web.Application:
    """An application with our error answers; bodies are bounded to 64 MiB."""
    app = web.Application(middlewares=[error_middleware(log)], client_max_size=MAX_BODY)
    app.add_routes(routes)
    lingering.prepare(app)
    return app


class ControlServer:
    """What listens at the control socket."""

    def __init__(self, runner: web.AppRunner, door: Door) -> None:
        self._runner = runner
        self._door = door

    async def cleanup(self) -> None:
        """Stop listening; requests under way have two seconds."""
        await self._door.close(SHUTDOWN_SECONDS)
        await self._runner.cleanup()


async def serve_unix(app: web.Application, path: Path, call: Call, log: logging.Logger) -> ControlServer:
    """Listen on a unix socket only root can use; `call` carries out CNI calls. A stale socket is replaced.

    Raises ConflictError for a live one.
    """
    listener = await asyncio.to_thread(listen_unix, path)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    assert runner.server is not None, "a runner that is set up has a server"
    door = Door(listener, call, runner.server, log)
    door.open()
    return ControlServer(runner, door)


async def serve_tcp(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Listen on a TCP address. Raises UserError if it cannot be bound."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise UserError(f"metrics.listen: cannot listen on {host}:{port}: {error.strerror or error}") from error
    return runner
