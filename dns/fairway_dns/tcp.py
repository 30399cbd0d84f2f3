"""DNS over TCP (RFC 1035, 4.2.2; RFC 7766)."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.clock import Clock
from fairway_dns.books import Books
from fairway_dns.counters import Counters
from fairway_dns.direct import SEQUEL, Lookout, lookout
from fairway_dns.knock import is_knock, packed
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import BACKLOG

ACCEPTS = 16
"""Connections taken in a row; each costs as much as ten queries."""
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
        self.sequels: Lookout | None = None
        self._clients: dict[bytes, int] = {}
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def held(self) -> int:
        """Connections now."""
        return len(self._connections)

    async def start(self) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self.sequels = lookout(loop, SEQUEL)
        # asyncio has one number for how many are taken in a row and for how many the kernel may keep.
        self._server = await loop.create_server(lambda: _Connection(self), sock=self._listener, backlog=ACCEPTS)
        self._listener.listen(BACKLOG)

    async def close(self, grace: float = 1.0) -> None:
        """Accept no more, answer what has arrived, wait `grace` seconds for upstreams, end every connection."""
        if self._server is not None:
            self._server.close()
        # What has been sent is read in the loop's next pass.
        await asyncio.sleep(0)
        for one in list(self._connections):
            one.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for one in list(self._connections):
            one.abort()
        await asyncio.sleep(0)

    def admit(self, connection: _Connection, client: bytes) -> bool:
        """Whether there is room for one more connection of a client."""
        held = self._clients.get(client, 0)
        if len(self._connections) >= self.limits.connections or held >= self.limits.per_client:
            self._counters.add("tcp_refused")
            self.handled[0] += 1
            return False
        self._clients[client] = held + 1
        self._connections.add(connection)
        return True

    def left(self, connection: _Connection, client: bytes) -> None:
        """A connection is gone."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def delay(self, client: bytes) -> float:
        """Seconds until the next query of `client` is within its limit: over TCP it can be made to wait, nothing is lost."""
        return self.limiter.reserve(client, self.clock.monotonic()) if self.limiter is not None else 0.0


class _Connection(asyncio.Protocol):
    """One client, until it closes, is idle, takes no replies, or sends what must be dropped.

    A callback from the octets to the reply and no task: the reply is on its way before the loop turns to anything else.
    """

    _transport: asyncio.Transport

    def __init__(self, server: TcpServer) -> None:
        self._server, self._limits = server, server.limits
        self._loop = asyncio.get_running_loop()
        self._client = b""
        self._octets = bytearray()
        self._held: bytes | None = None
        """A query that has to wait for its time."""
        self._taken = self._under_way = 0
        self._again = self._blocked = self._finished = self._reading_paused = False
        self._since = self._moved = server.clock.monotonic()
        """When the last query was taken, and when the last reply left."""
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client = _peer(transport)
        if self._server.admit(self, self._client):
            self._idle = self._loop.call_later(self._limits.idle, self._look_at_clock)
        else:
            self.abort()

    def connection_lost(self, error: Exception | None) -> None:
        for timer in (self._idle, self._ending, self._stalled):
            if timer is not None:
                timer.cancel()
        self._octets.clear()
        self._server.left(self, self._client)

    def data_received(self, data: bytes) -> None:
        self._octets += data
        self._take()

    def eof_received(self) -> bool:
        """The client sends no more, but takes replies to what it has sent."""
        self._finished, self._moved = True, self._server.clock.monotonic()
        self._ending = self._loop.call_later(self._limits.send, self._hurry)
        self._take()
        return True

    def pause_writing(self) -> None:
        self._blocked = True
        self._stalled = self._loop.call_later(self._limits.send, self.abort)

    def resume_writing(self) -> None:
        self._blocked = False
        if self._stalled is not None:
            self._stalled.cancel()
        self._take()

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def finish(self) -> None:
        """Take no more; close when the last reply has left."""
        if not self._finished and not self._transport.is_closing():
            self._finished = True
            self._transport.pause_reading()
            self._take()

    def _look_at_clock(self) -> None:
        """A query is the sign of life, not an octet; the timer is set again once in a while and not for each."""
        left = self._since + self._limits.idle - self._server.clock.monotonic()
        if left <= 0 and self._held is None:
            self.abort()
        else:
            self._idle = self._loop.call_later(max(left, self._limits.idle / 10), self._look_at_clock)

    def _hurry(self) -> None:
        """Who sends no more waits for replies, which must come one after another."""
        left = self._moved + self._limits.send - self._server.clock.monotonic()
        if left <= 0 and self._held is None:
            self.abort()
        else:
            self._ending = self._loop.call_later(max(left, self._limits.send / 10), self._hurry)

    def _take(self) -> None:
        """Answer what has arrived in full, as far as the client may have it answered now."""
        taken = 0
        while not (self._blocked or self._again or self._held or self._transport.is_closing()):
            if self._under_way >= self._limits.pipelined:
                break
            data = self._next()
            if data is None:
                break
            self._since = self._server.clock.monotonic()
            self._query(data)
            taken += 1
            if taken >= TURN:
                # What has arrived already is there without waiting, and a client may send thousands of queries at once.
                self._again = True
                self._loop.call_soon(self._take_again)
        self._settle()

    def _take_again(self) -> None:
        self._again = False
        self._take()

    def _next(self) -> bytes | None:
        octets = self._octets
        if len(octets) < 2:
            return None
        end = 2 + (octets[0] << 8 | octets[1])
        if len(octets) < end:
            return None
        data = bytes(octets[2:end])
        del octets[:end]
        return data

    def _settle(self) -> None:
        """Read on, or not, or end, as it is now."""
        if self._transport.is_closing():
            return
        busy = self._blocked or self._again or self._held is not None or self._under_way >= self._limits.pipelined
        if self._finished:
            if not busy and not self._under_way:
                # Half a message is nothing that could be answered.
                self._transport.close()
        elif busy is not self._reading_paused:
            self._reading_paused = busy
            (self._transport.pause_reading if busy else self._transport.resume_reading)()

    def _query(self, data: bytes) -> None:
        if is_knock(data, self._client, self._server.own):
            self._knocked(data)
            return
        delay = self._server.delay(self._client)
        if delay:
            self._held = data
            self._loop.call_later(delay, self._let_go)
        else:
            self._answer(data)

    def _let_go(self) -> None:
        data, self._held = self._held, None
        if data is not None and not self._transport.is_closing():
            self._answer(data)
            self._take()

    def _knocked(self, data: bytes) -> None:
        """The agent wants to know whether we are there."""
        reply = self._server.resolver.probe(data)
        if reply is not None:
            self._send(reply)
            self._server.knocks[0] += 1

    def _answer(self, data: bytes) -> None:
        server = self._server
        if server.top.open:
            server.top.count(data, self._client)
        since = server.clock.monotonic()
        reply = server.resolver.handle(data, tcp=True, client=self._client)
        if reply is None:
            server.handled[0] += 1
            self.abort()
        elif isinstance(reply, bytes):
            self._send(reply)
            server.books.answered(reply, self._client, server.clock.monotonic() - since, forwarded=False, transport="tcp")
            if server.sequels is not None:
                server.sequels.expect()
        else:
            self._under_way += 1
            reply.start(self._fetched, since)

    def _fetched(self, reply: bytes, since: float) -> None:
        self._under_way -= 1
        if self._transport.is_closing():
            return
        self._send(reply)
        took = self._server.clock.monotonic() - since
        self._server.books.answered(reply, self._client, took, forwarded=True, transport="tcp")
        # Not at once: it may have been fetched while its query is still being taken.
        if not self._again:
            self._again = True
            self._loop.call_soon(self._take_again)

    def _send(self, reply: bytes) -> None:
        self._moved = self._server.clock.monotonic()
        self._transport.write(len(reply).to_bytes(2, "big") + reply)
        self._server.handled[0] += 1


def _peer(transport: asyncio.BaseTransport) -> bytes:
    """The client's address, packed; empty if the connection has gone already."""
    name = transport.get_extra_info("peername")
    return ip_address(name[0].partition("%")[0]).packed if name else b""
