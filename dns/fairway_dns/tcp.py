"""DNS over TCP (RFC 1035, 4.2.2; RFC 7766)."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.clock import Clock
from fairway_dns.books import Books
from fairway_dns.counters import Counters
from fairway_dns.knock import is_knock, packed
from fairway_dns.resolver import Later, Resolver

TURN = 16
"""Queries of one connection answered in a row before others have their turn."""


@dataclass(frozen=True, slots=True)
class TcpLimits:
    """`idle` seconds without a query close a connection, `send` seconds without progress too; `connections` at a time, of one
    client `per_client`, the next is closed at once; `pipelined` queries of one connection under way, then reading pauses.
    """

    idle: float = 10.0
    send: float = 5.0
    connections: int = 256
    per_client: int = 64
    pipelined: int = 32


class TcpServer:
    """Answers queries over connections, several at a time and each as soon as it is ready."""

    def __init__(
        self,
        listener: socket.socket,
        resolver: Resolver,
        clock: Clock,
        counters: Counters,
        limits: TcpLimits | None = None,
        books: Books | None = None,
    ) -> None:
        self._listener = listener
        self.resolver = resolver
        self.clock = clock
        self._counters = counters
        self.limits = limits or TcpLimits()
        self.books = books or Books.empty(clock)
        self.limiter, self.top = self.books.limiter, self.books.top
        host = str(listener.getsockname()[0])
        self.own = packed(listener)
        self.handled, self.knocks = counters.named("tcp_handled", host), counters.named("tcp_knocks", host)
        self._clients: dict[bytes, int] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def held(self) -> int:
        """Connections now."""
        return len(self._connections)

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    async def close(self) -> None:
        """Accept no more and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client = _peer(writer)
        held = self._clients.get(client, 0)
        if len(self._connections) >= self.limits.connections or held >= self.limits.per_client:
            self._counters.add("tcp_refused")
            self.handled[0] += 1
            writer.transport.abort()
            return
        self._clients[client] = held + 1
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Conversation(reader, writer, client, self).run()
        except (OSError, EOFError, TimeoutError, asyncio.CancelledError):
            # The client is gone or too slow, or we are closing: nothing to tell anybody.
            writer.transport.abort()
        finally:
            self._connections.discard(task)
            self._left(client)
            writer.close()

    def _left(self, client: bytes) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    async def pause(self, client: bytes) -> None:
        """Wait until the next query of `client` is within its limit: over TCP a client can be made to wait, nothing is lost."""
        delay = self.limiter.reserve(client, self.clock.monotonic()) if self.limiter is not None else 0.0
        if delay:
            await asyncio.sleep(delay)


class _Conversation:
    """One TCP connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: bytes, server: TcpServer) -> None:
        self._reader = reader
        self._writer = writer
        self._server = server
        self._limits = server.limits
        self._client = client
        self._taken = 0
        self._slots = asyncio.Semaphore(server.limits.pipelined)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the client closes, is idle, or sends what must be dropped."""
        try:
            while (data := await self._next()) is not None:
                if is_knock(data, self._client, self._server.own):
                    await self._knocked(data)
                    continue
                await self._turn()
                if self._server.top.open:
                    self._server.top.count(data, self._client)
                since = self._server.clock.monotonic()
                reply = self._server.resolver.handle(data, tcp=True, client=self._client)
                if reply is None:
                    self._server.handled[0] += 1
                    return
                if isinstance(reply, bytes):
                    await self._send(reply)
                    self._note(reply, since, forwarded=False)
                else:
                    await self._later(reply, since)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=self._limits.send)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def _knocked(self, data: bytes) -> None:
        """The agent wants to know whether we are there."""
        reply = self._server.resolver.probe(data)
        if reply is not None:
            await self._send(reply)
            self._server.knocks[0] += 1

    async def _turn(self) -> None:
        await self._server.pause(self._client)
        self._taken += 1
        if self._taken % TURN == 0:
            # What has arrived already is read without waiting, and a client may send thousands of queries at once.
            await asyncio.sleep(0)

    async def _next(self) -> bytes | None:
        """The next message; None when the client has finished. Raises TimeoutError, EOFError for half a message."""
        async with asyncio.timeout(self._limits.idle):
            head = await self._reader.read(1)
            if not head:
                return None
            head += await self._reader.readexactly(1)
            return await self._reader.readexactly(int.from_bytes(head, "big"))

    async def _later(self, reply: Later, since: float) -> None:
        await self._slots.acquire()

        async def finish() -> None:
            try:
                octets = await reply()
                await self._send(octets)
                self._note(octets, since, forwarded=True)
            except (OSError, TimeoutError):
                self._writer.transport.abort()
            finally:
                self._slots.release()

        task = asyncio.create_task(finish())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _note(self, reply: bytes, since: float, forwarded: bool) -> None:
        took = self._server.clock.monotonic() - since
        self._server.books.answered(reply, self._client, took, forwarded=forwarded, transport="tcp")

    async def _send(self, reply: bytes) -> None:
        self._writer.write(len(reply).to_bytes(2, "big") + reply)
        async with asyncio.timeout(self._limits.send):
            await self._writer.drain()
        self._server.handled[0] += 1


def _peer(writer: asyncio.StreamWriter) -> bytes:
    """The client's address, packed; empty if the connection has gone already."""
    name = writer.get_extra_info("peername")
    return ip_address(name[0].partition("%")[0]).packed if name else b""
