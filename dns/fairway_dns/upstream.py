"""One upstream server: a pool of connected UDP sockets, and TCP for what was truncated (RFC 5452, RFC 7766).

Connected sockets take datagrams from the server only and learn of its refusal at once (ICMP). The kernel draws a random port
for each; ids come from the system's generator; a socket is given up after a number of questions, so that ports change too.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress

from fairway_dns.cache import Asked
from fairway_dns.config import Address
from fairway_dns.response import Response, matches, parse_response
from fairway_dns.wire import FORMERR, HEADER, IN, NOERROR, NXDOMAIN, WireError, build_query

SOCKETS = 32
USES = 256
MAX_PENDING = 256


class Unusable(Exception):
    """An upstream cannot answer now: refused, cut off, or an rcode that another server may better. `response` holds the
    latter.
    """

    def __init__(self, reason: str, response: Response | None = None) -> None:
        super().__init__(reason)
        self.response = response


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    return found[0], found[4]


class _Channel:
    """One connected socket and the questions that wait on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Address) -> None:
        self._loop = loop
        self._waiting: dict[int, tuple[bytes, asyncio.Future[bytes]]] = {}
        self.uses = 0
        self.retired = False
        family, target = _resolve(address)
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(target)
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket, self._readable)

    async def ask(self, asked: Asked, edns: bool) -> bytes:
        """Send the question under a fresh id and wait for its reply, without limit. Raises OSError."""
        self.uses += 1
        ident = secrets.randbits(16)
        while ident in self._waiting:
            ident = secrets.randbits(16)
        query = build_query(
            ident, asked.name, asked.qtype, edns=edns, dnssec=asked.dnssec, checking_disabled=asked.checking_disabled
        )
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._waiting[ident] = (query[HEADER : HEADER + len(asked.name) + 4], future)
        try:
            self._socket.send(query)
            return await future
        finally:
            del self._waiting[ident]
            self.retire_if_idle()

    @property
    def busy(self) -> bool:
        return len(self._waiting) >= MAX_PENDING

    def retire_if_idle(self) -> None:
        if self.retired and not self._waiting:
            self.close()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        while True:
            try:
                data = self._socket.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            self._deliver(data)

    def _deliver(self, data: bytes) -> None:
        ident = int.from_bytes(data[:2], "big")
        question, future = self._waiting.get(ident, (b"", None))
        # What does not match is somebody's guess: it is ignored, and the question goes on waiting (RFC 5452, 9).
        if future is not None and not future.done() and matches(data, ident, question):
            future.set_result(data)

    def _fail(self, error: OSError) -> None:
        for _question, future in self._waiting.values():
            if not future.done():
                future.set_exception(OSError(error.errno, error.strerror))


class Upstream:
    """Promise: `exchange` gives a matching reply or raises; it has no time limit of its own, the caller cancels it."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self._loop = loop
        self._channels: list[_Channel | None] = [None] * SOCKETS

    async def exchange(self, asked: Asked) -> Response:
        """The server's answer: NOERROR or NXDOMAIN. Raises Unusable for everything else."""
        try:
            response = await self._ask(asked, edns=True)
            if response.tail.rcode == FORMERR:
                # Servers from before RFC 6891 answer FORMERR to an OPT record (6.2.2).
                response = await self._ask(asked, edns=False)
        except (OSError, WireError, EOFError) as error:
            raise Unusable(f"{self.address}: {error}") from error
        if response.tail.rcode not in (NOERROR, NXDOMAIN):
            raise Unusable(f"{self.address}: rcode {response.tail.rcode}", response)
        return response

    async def _ask(self, asked: Asked, edns: bool) -> Response:
        response = parse_response(await self._channel().ask(asked, edns))
        return await self._ask_tcp(asked, edns) if response.truncated else response

    async def _ask_tcp(self, asked: Asked, edns: bool) -> Response:
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port)
        try:
            ident = secrets.randbits(16)
            query = build_query(
                ident, asked.name, asked.qtype, edns=edns, dnssec=asked.dnssec, checking_disabled=asked.checking_disabled
            )
            writer.write(len(query).to_bytes(2, "big") + query)
            data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        if not matches(data, ident, asked.name + asked.qtype.to_bytes(2, "big") + IN.to_bytes(2, "big")):
            raise WireError("reply over TCP does not belong to the question")
        return parse_response(data)

    def _channel(self) -> _Channel:
        index = secrets.randbelow(SOCKETS)
        channel = self._channels[index]
        if channel is None or channel.uses >= USES or channel.busy:
            fresh = _Channel(self._loop, self.address)
            if channel is not None:
                channel.retired = True
                channel.retire_if_idle()
            self._channels[index] = channel = fresh
        return channel

    def close(self) -> None:
        """Close every socket. Questions under way are for the caller to cancel first."""
        for channel in self._channels:
            if channel is not None:
                channel.close()
        self._channels = [None] * SOCKETS
