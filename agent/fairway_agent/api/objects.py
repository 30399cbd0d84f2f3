"""/v1/objects, /v1/apply, /v1/delete."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from aiohttp import web

from fairway_agent.api.body import json_object, key_from
from fairway_agent.api.lingering import lingering
from fairway_agent.objects import Objects, Result, key_json
from fairway_core.errors import UserError
from fairway_core.keys import Key, kind_named
from fairway_core.selectors_text import parse_selector

GONE_SECONDS = 5.0
"""How long a watch may go on for a client that has left while nothing changes."""


class ObjectRoutes:
    """Handlers over `Objects`."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v1/objects/{plural}", self.select),
            web.get("/v1/objects/{plural}/{name}", self.get),
            web.post("/v1/apply", self.apply),
            web.post("/v1/delete", self.delete),
        ]

    async def select(self, request: web.Request) -> web.StreamResponse:
        kind = kind_named(request.match_info["plural"])
        namespace = request.query.get("namespace") if kind.namespaced else None
        selector = parse_selector(request.query.get("selector", ""))
        if request.query.get("watch") == "1":
            with lingering(request):
                return await self._follow(request, self._objects.watch(kind.name, namespace, selector))
        revision, items = await self._objects.select(kind.name, namespace, selector)
        return web.json_response({"revision": revision, "items": items})

    async def _follow(self, request: web.Request, events: AsyncGenerator[dict[str, Any], None]) -> web.StreamResponse:
        """One line per event, until the client leaves; a client that leaves while nothing happens is noticed too."""
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while request.transport is not None and not request.transport.is_closing():
                done, _ = await asyncio.wait({coming}, timeout=GONE_SECONDS)
                if not done:
                    continue
                event = coming.result()
                if event is None:
                    break
                coming = asyncio.ensure_future(anext(events, None))
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionResetError:
            # Its answer has begun; there is nobody left to tell.
            pass
        finally:
            coming.cancel()
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                await coming
            await events.aclose()
        return response

    async def get(self, request: web.Request) -> web.StreamResponse:
        kind = kind_named(request.match_info["plural"])
        namespace = request.query.get("namespace", "default") if kind.namespaced else ""
        revision, item = await self._objects.get(Key(kind.name, namespace, request.match_info["name"]))
        return web.json_response({"revision": revision, "item": item})

    async def apply(self, request: web.Request) -> web.StreamResponse:
        body = await json_object(request, "documents", "dryRun")
        documents = body.get("documents")
        if not isinstance(documents, list) or not all(isinstance(item, dict) for item in documents):
            raise UserError("documents: a list of objects is required")
        dry_run = body.get("dryRun") or False
        if not isinstance(dry_run, bool):
            # Taken for false, it would change what the user wanted to see only.
            raise UserError("dryRun: true or false is required")
        revision, results = await self._objects.apply(documents, dry_run)
        return web.json_response({"revision": revision, "results": [_json(result) for result in results]})

    async def delete(self, request: web.Request) -> web.StreamResponse:
        body = await json_object(request, "keys")
        keys = body.get("keys")
        if not isinstance(keys, list):
            raise UserError("keys: a list of keys is required")
        revision, results = await self._objects.delete([key_from(item) for item in keys])
        return web.json_response({"revision": revision, "results": [_json(result) for result in results]})


def _json(result: Result) -> dict[str, Any]:
    return {"key": key_json(result.key), "action": result.action, "before": result.before, "after": result.after}
