"""Errors to HTTP answers, in one place."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from fairway_core.errors import (
    ConflictError,
    ExhaustedError,
    FairwayError,
    KernelError,
    NotFoundError,
    StoreUnavailable,
    UserError,
)

_STATUS: tuple[tuple[type[FairwayError], int, str], ...] = (
    (UserError, 400, "user"),
    (NotFoundError, 404, "notfound"),
    (ConflictError, 409, "conflict"),
    (ExhaustedError, 409, "conflict"),
    (StoreUnavailable, 503, "unavailable"),
    (KernelError, 500, "kernel"),
)


def error_body(kind: str, message: str, place: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON body of every error answer."""
    return {"error": {"kind": kind, "message": message, "place": place}}


def error_middleware(log: logging.Logger) -> Middleware:
    """Turn exceptions into answers: a fault of the input never ends the agent, a fault of ours is logged with its trace."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPException as error:
            kind = "notfound" if error.status == 404 else "user"
            return web.json_response(error_body(kind, f"{error.reason}: {request.path}"), status=error.status)
        except FairwayError as error:
            return _answer(error)
        except Exception as error:
            log.exception("request failed", extra={"path": request.path})
            return web.json_response(error_body("internal", f"{type(error).__name__}: {error}"), status=500)

    return middleware


def _answer(error: FairwayError) -> web.Response:
    status, kind = next(((status, kind) for cls, status, kind in _STATUS if isinstance(error, cls)), (500, "internal"))
    place = asdict(error.place) if isinstance(error, UserError) and error.place else None
    message = error.message if isinstance(error, UserError) else str(error)
    return web.json_response(error_body(kind, message, place), status=status)
