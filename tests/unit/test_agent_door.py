"""The control socket's door: whole CNI calls go in at once, everything else to the HTTP server."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from fairway_agent.api.door import whole_call
from fairway_agent.api.server import ControlServer, application, serve_unix
from fairway_cni.handler import Answer

LOG = logging.getLogger("test")


def request(body: bytes, path: str = "/v1/cni", host: str = "fairway") -> bytes:
    """As the shim writes it."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@given(st.binary(max_size=200), st.integers(0, 400))
def test_only_a_whole_call_is_one(body: bytes, cut: int) -> None:
    whole = request(body)
    assert whole_call(whole) == body
    assert whole_call(whole[:cut]) is None or cut >= len(whole)
    assert whole_call(whole + b"x") is None


@pytest.mark.parametrize("other", [request(b"", "/v1/objects"), request(b"", host="x"), b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_other_requests_are_not(other: bytes) -> None:
    assert whole_call(other) is None


@dataclass
class Place:
    """A server whose CNI calls tell which way they came, and wait for `go_on`."""

    path: Path
    server: ControlServer
    go_on: asyncio.Event
    bodies: list[bytes] = field(default_factory=list)

    async def ask(self, *pieces: bytes) -> tuple[str, Any]:
        """Send the pieces one after the other; the value of X-Fairway-Exit and the answer's document."""
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        for piece in pieces:
            await asyncio.sleep(0.02)
            writer.write(piece)
            await writer.drain()
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        marks = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"X-Fairway-Exit")]
        return marks[0].decode() if marks else "", json.loads(body)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    go_on = asyncio.Event()
    go_on.set()
    bodies: list[bytes] = []

    async def call(body: bytes) -> Answer:
        bodies.append(body)
        await go_on.wait()
        return Answer(len(body) % 2, b'"door"')

    async def slow_way(asked: web.Request) -> web.Response:
        bodies.append(await asked.read())
        return web.json_response("http", headers={"X-Fairway-Exit": "0"})

    app = application([web.post("/v1/cni", slow_way), web.get("/healthz", slow_way)], LOG)
    server = await serve_unix(app, tmp_path / "agent.sock", call, LOG)
    yield Place(tmp_path / "agent.sock", server, go_on, bodies)
    await server.cleanup()


async def test_a_call_in_one_piece_goes_in_at_once(place: Place) -> None:
    assert await place.ask(request(b"odd")) == ("1", "door")
    assert await place.ask(request(b"even")) == ("0", "door")
    assert place.bodies == [b"odd", b"even"]


async def test_whatever_else_is_the_http_servers_unread(place: Place) -> None:
    whole = request(b"body")
    assert await place.ask(whole[:-2], whole[-2:]) == ("0", "http")
    assert await place.ask(request(b"body", host="x")) == ("0", "http")
    assert await place.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == ("0", "http")
    assert place.bodies == [b"body", b"body", b""]


async def test_many_at_once_are_all_answered(place: Place) -> None:
    answers = await asyncio.gather(*(place.ask(request(b"x" * number)) for number in range(100)))
    assert answers == [(str(number % 2), "door") for number in range(100)]


async def test_who_connects_and_says_nothing_holds_up_nobody(place: Place) -> None:
    _, silent = await asyncio.open_unix_connection(str(place.path))
    assert await place.ask(request(b"")) == ("0", "door")
    await asyncio.wait_for(place.server.cleanup(), 5)
    silent.close()


async def test_a_caller_that_does_not_wait_is_no_error(place: Place) -> None:
    place.go_on.clear()
    with socket.socket(socket.AF_UNIX) as impatient:
        impatient.connect(str(place.path))
        impatient.sendall(request(b""))
        async with asyncio.timeout(5):
            while not place.bodies:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    place.go_on.set()
    assert await place.ask(request(b"")) == ("0", "door")


async def test_stopping_waits_for_calls_under_way(place: Place) -> None:
    place.go_on.clear()
    asking = asyncio.create_task(place.ask(request(b"")))
    async with asyncio.timeout(5):
        while not place.bodies:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    stopping = asyncio.create_task(place.server.cleanup())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    place.go_on.set()
    assert await asking == ("0", "door")
    await stopping
