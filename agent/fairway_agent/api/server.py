"""The two listeners: the control socket, and the metrics address."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from fairway_agent.api.errors import error_middleware
from fairway_core.errors import UserError

MAX_BODY = 64 << 20
SHUTDOWN_SECONDS = 2.0


def application(routes: Sequence[web.RouteDef], log: logging.Logger) -> web.Application:
    """An application with our error answers; bodies are bounded to 64 MiB."""
    app = web.Application(middlewares=[error_middleware(log)], client_max_size=MAX_BODY)
    app.add_routes(routes)
    return app


async def serve_unix(app: web.Application, path: Path) -> web.AppRunner:
    """Listen on a unix socket only root can use. A stale socket is replaced; a live one is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear_stale(path)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    before = os.umask(0o177)
    try:
        await web.UnixSite(runner, str(path)).start()
    finally:
        os.umask(before)
    return runner


def _clear_stale(path: Path) -> None:
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError as error:
            raise UserError(f"{path}: is in use: {error}") from error
    raise UserError(f"{path}: another agent is listening there; give each agent a runDir of its own")


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
