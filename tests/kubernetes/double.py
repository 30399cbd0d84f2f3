"""A stand-in for an API server that speaks as the recordings do, and misbehaves on request.

It keeps objects with one version counter, lists with pages, watches with bookmarks and streams lists. Faults are queued with
`misbehave` and used up by the next requests they fit, one each.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.kubernetes.objects import ObjectWrites
from tests.kubernetes.writes import RefusalError, Writes

from fairway_core.keys import KINDS, Kind

INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True)
class Fault:
    """`on` is list, watch, create or patch. `status`: answer with it; `gone`: an ERROR event of 410 after `after` events; `cut`:
    break off in the middle of the next one; `hang`: say nothing more; `twice`: send every event twice; `end`: close properly."""

    on: str
    status: int = 0
    retry_after: int = 0
    gone: bool = False
    cut: bool = False
    hang: bool = False
    twice: bool = False
    end: bool = False
    after: int = 0


@dataclass
class Collection:
    """The objects of one resource, and what happened to them."""

    kind: Kind
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0
    base: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)


class Double:
    """One API server. `stop` and `start` make an outage; objects survive it."""

    def __init__(self, page: int = 1000, streaming: bool = True, token: str = "", bookmarks: float = 0.05) -> None:
        self.version = 100
        self.floor = 0
        self.page = page
        self.streaming = streaming
        self.token = token
        self.bookmarks = bookmarks
        self.faults: deque[Fault] = deque()
        self.requests: list[tuple[str, str]] = []
        self.forbidden: set[str] = set()
        self.broken: dict[str, int] = {}
        self.writes = Writes(self._node, self.put)
        self.objects = ObjectWrites(self._objects, self.put, self.delete)
        self.collections = {_path(kind): Collection(kind) for kind in KINDS if kind.name != "Attachment"}
        self._moved = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # Objects

    def put(self, document: Mapping[str, Any], version: int = 0) -> dict[str, Any]:
        """Create or replace; the object as stored."""
        collection = self._of(document)
        meta = document["metadata"]
        key = (meta.get("namespace", ""), meta["name"])
        self.version = max(version, self.version + 1)
        stored = json.loads(json.dumps(document))
        stored["metadata"]["resourceVersion"] = str(self.version)
        stored["metadata"]["managedFields"] = [{"manager": "test", "operation": "Update"}]
        event = "MODIFIED" if key in collection.objects else "ADDED"
        collection.objects[key] = stored
        self._record(collection, event, stored)
        return stored

    def delete(self, kind: str, namespace: str, name: str, version: int = 0) -> None:
        """Remove, if it is there."""
        collection = next(item for item in self.collections.values() if item.kind.name == kind)
        document = collection.objects.pop((namespace, name), None)
        if document is not None:
            self.version = max(version, self.version + 1)
            document = json.loads(json.dumps(document))
            document["metadata"]["resourceVersion"] = str(self.version)
            self._record(collection, "DELETED", document)

    def replay(self, event: Mapping[str, Any]) -> None:
        """Take over a recorded event with its version."""
        item = event["object"]
        version = int(item["metadata"]["resourceVersion"])
        if event["type"] == "DELETED":
            self.delete(item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"], version)
        else:
            self.put(item, version)

    def compact(self) -> None:
        """Forget history: watches from before, and continue tokens, are too old now."""
        self.floor = self.version
        for collection in self.collections.values():
            collection.dropped = max([collection.dropped, *(entry[0] for entry in collection.history)])
            collection.history.clear()
            collection.base = dict(collection.objects)

    def uninstall(self, kind: str) -> None:
        """As if the API group had never been installed."""
        self.collections = {path: item for path, item in self.collections.items() if item.kind.name != kind}

    def documents(self) -> list[dict[str, Any]]:
        """Every object."""
        return [item for collection in self.collections.values() for item in collection.objects.values()]

    def misbehave(self, *faults: Fault) -> None:
        """Queue faults."""
        self.faults.extend(faults)

    def _of(self, document: Mapping[str, Any]) -> Collection:
        return next(item for item in self.collections.values() if item.kind.name == document["kind"])

    def _record(self, collection: Collection, event: str, document: dict[str, Any]) -> None:
        collection.history.append((self.version, event, document))
        self._moved.set()
        self._moved = asyncio.Event()

    # Serving

    async def start(self, listener: socket.socket | None = None) -> str:
        """Serve on a socket, or on a port of its own, kept over restarts; the URL."""
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._serve)
        app.router.add_route("*", "/{tail:.*}", self._write)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        if listener is None:
            listener = socket.create_server(("127.0.0.1", self._port))
        self._port = listener.getsockname()[1]
        await web.SockSite(self._runner, listener).start()
        return f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """An outage: every connection breaks, new ones are refused."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        collection = self.collections.get(request.path)
        verb = "watch" if request.query.get("watch") else "list"
        self.requests.append((verb, request.path.rpartition("/")[2]))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        if collection is None:
            return web.Response(status=404, text="404 page not found\n")
        if request.path in self.forbidden:
            return _status(403, "Forbidden", f"{collection.kind.plural}: no role of the test allows it")
        if request.path in self.broken:
            return _status(self.broken[request.path], "InternalError", "conversion webhook failed")
        fault = self._fault(verb)
        if fault.status:
            headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after else {}
            reason = {403: "Forbidden", 410: "Expired", 429: "TooManyRequests"}.get(fault.status, "InternalError")
            return _status(fault.status, reason, f"{collection.kind.plural}: refused by the test", headers)
        if verb == "watch":
            return await self._watch(request, collection, fault)
        return await self._list(request, collection, fault)

    async def _write(self, request: web.Request) -> web.Response:
        verb = {"POST": "create", "PATCH": "patch"}.get(request.method, request.method.lower())
        self.requests.append((verb, "events" if "/events" in request.path else request.path.rpartition("/")[2]))
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401, "Unauthorized", "Unauthorized")
        fault = self._fault(verb)
        if request.path in self.forbidden:
            fault = Fault(verb, 403)
        if fault.status:
            return _status(fault.status, "Forbidden" if fault.status == 403 else "InternalError", "refused by the test")
        what = (request.method, request.path, request.content_type, await request.read())
        try:
            code, document = (self.writes if self.writes.knows(*what[:3]) else self.objects).carry_out(*what)
        except RefusalError as refusal:
            return _status(refusal.code, refusal.reason, refusal.message, cause=refusal.cause)
        return web.json_response(document, status=code)

    def _objects(self, path: str) -> dict[tuple[str, str], dict[str, Any]] | None:
        return self.collections[path].objects if path in self.collections else None

    def _node(self, name: str) -> dict[str, Any] | None:
        return self.collections["/api/v1/nodes"].objects.get(("", name))

    def _fault(self, verb: str) -> Fault:
        for fault in self.faults:
            if fault.on == verb:
                self.faults.remove(fault)
                return fault
        return Fault(verb)

    async def _list(self, request: web.Request, collection: Collection, fault: Fault) -> web.StreamResponse:
        version, _, start = (request.query.get("continue") or f"{self.version}:0").partition(":")
        if int(version) < self.floor:
            return _status(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")
        # Pages show the collection as it was at the first one.
        items = [collection.objects[key] for key in sorted(collection.objects)] if int(version) == self.version else None
        if items is None:
            items = _as_of(collection, int(version))
        limit = min(int(request.query.get("limit", self.page)), self.page)
        end = int(start) + limit
        meta = {"resourceVersion": version, **({"continue": f"{version}:{end}"} if end < len(items) else {})}
        bare = [{name: value for name, value in item.items() if name not in ("kind", "apiVersion")} for item in items]
        document = {"kind": f"{collection.kind.name}List", "apiVersion": collection.kind.api_version, "metadata": meta}
        body = json.dumps({**document, "items": bare[int(start) : end]}).encode()
        if fault.hang:
            await asyncio.sleep(3600)
        if not fault.cut:
            return web.Response(body=body, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.abort()
        return response

    async def _watch(self, request: web.Request, collection: Collection, fault: Fault) -> web.StreamResponse:
        initial = request.query.get("sendInitialEvents") == "true"
        if initial and not self.streaming:
            return _status(422, "Invalid", "sendInitialEvents: Forbidden: not enabled on this server")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        sender = _Sender(request, response, collection, fault)
        try:
            if initial:
                position = self.version
                for key in sorted(collection.objects):
                    await sender.send("ADDED", collection.objects[key])
                await sender.bookmark(position, INITIAL_END)
            else:
                position = int(request.query["resourceVersion"])
            if position < self.floor:
                message = f"too old resource version: {position} ({self.floor})"
                await sender.error(410, "Expired", message)
            else:
                await self._follow(sender, collection, position)
        except (_EndError, ConnectionError):
            pass
        return response

    async def _follow(self, sender: _Sender, collection: Collection, position: int) -> None:
        while True:
            if position < collection.dropped:
                await sender.error(410, "Expired", f"too old resource version: {position} ({self.floor})")
            for version, event, document in [entry for entry in collection.history if entry[0] > position]:
                await sender.send(event, document)
                position = version
            if sender.fault.end:
                return
            moved = self._moved
            if not any(entry[0] > position for entry in collection.history):
                try:
                    await asyncio.wait_for(moved.wait(), self.bookmarks)
                except TimeoutError:
                    # What happened while the timer ran out goes first: a bookmark promises that nothing before it is missing.
                    if position >= collection.dropped and not any(entry[0] > position for entry in collection.history):
                        position = max(position, self.version)
                        await sender.bookmark(position)


class _EndError(Exception):
    """The watch is over."""


class _Sender:
    """Writes events, until the fault strikes."""

    def __init__(self, request: web.Request, response: web.StreamResponse, collection: Collection, fault: Fault) -> None:
        self.fault = fault
        self._request = request
        self._response = response
        self._collection = collection
        self._left = fault.after

    async def send(self, event: str, document: Mapping[str, Any]) -> None:
        line = json.dumps({"type": event, "object": document}).encode() + b"\n"
        await self._strike(line)
        await self._response.write(line + line if self.fault.twice and event != "DELETED" else line)

    async def _strike(self, line: bytes) -> None:
        if self._left > 0:
            self._left -= 1
            return
        if self.fault.gone:
            await self.error(410, "Expired", "too old resource version")
        if self.fault.hang:
            await asyncio.sleep(3600)
        if self.fault.cut:
            await self._response.write(line[: len(line) // 2])
            await asyncio.sleep(0)
            assert self._request.transport is not None
            self._request.transport.close()
            raise _EndError

    async def error(self, code: int, reason: str, message: str) -> None:
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        line = {"type": "ERROR", "object": {**status, "message": message, "reason": reason, "code": code}}
        await self._response.write(json.dumps(line).encode() + b"\n")
        raise _EndError

    async def bookmark(self, version: int, annotations: Mapping[str, str] | None = None) -> None:
        kind = self._collection.kind
        meta = {"resourceVersion": str(version), **({"annotations": dict(annotations)} if annotations else {})}
        await self.send("BOOKMARK", {"kind": kind.name, "apiVersion": kind.api_version, "metadata": meta})


def _as_of(collection: Collection, version: int) -> list[dict[str, Any]]:
    """The objects at an earlier version: those at the last compaction and what happened since."""
    present = dict(collection.base)
    for at, event, document in collection.history:
        if at <= version:
            key = (document["metadata"].get("namespace", ""), document["metadata"]["name"])
            present.pop(key, None) if event == "DELETED" else present.update({key: document})
    return [present[key] for key in sorted(present)]


def _path(kind: Kind) -> str:
    return f"/{'apis' if '/' in kind.api_version else 'api'}/{kind.api_version}/{kind.plural}"


def _status(code: int, reason: str, message: str, headers: Mapping[str, str] | None = None, cause: str = "") -> web.Response:
    body = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason}
    body |= {"details": {"causes": [{"reason": cause}]}} if cause else {}
    return web.json_response({**body, "code": code}, status=code, headers=headers)
