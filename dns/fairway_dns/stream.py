"""One kept-alive connection to one server, with many questions on it at a time (RFC 7766), in clear or through TLS (RFC 7858).

Replies may come in any order. The connection is made when it is needed and closed when it has been idle; questions that wait
while it breaks are asked once more on a new one, for a server may close just as we ask. After a failure there is a pause, which
grows; meanwhile questions fail at once, so that other servers get them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, cast

from fairway_dns.config import Address
from fairway_dns.question import Asked, Entropy, encode_padded, encode_query
from fairway_dns.response import matches

IDLE: Final = 10.0
"""Seconds without a question until the connection is closed."""
CONNECT: Final = 4.0
"""Seconds for connecting, TLS included."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 8.0
"""Seconds between a failure and the next connection."""
SILENT: Final = 3.0
"""Seconds a question waits on a connection that says nothing at all until the connection is given up."""
UNACKNOWLEDGED: Final = 4000
"""Milliseconds the kernel waits for the server's acknowledgement (tcp(7), TCP_USER_TIMEOUT)."""
MAX_PENDING: Final = 1000

Arrived = Callable[[bytes | OSError], None]


@dataclass(eq=False, slots=True)
class _Question:
    """One question on a connection, asked at `since`; `tries` is how many connections more it may be put on."""

    octets: bytes
    question: bytes
    arrived: Arrived
    since: float
    tries: int = 1


@dataclass(frozen=True, slots=True)
class Security:
    """TLS and the name that the server's certificate must be for (RFC 8310, strict profile)."""

    context: ssl.SSLContext
    name: str


class Stream:
    """The connection of one server. Promise: whoever asks is told once: the octets of a matching reply, or an OSError; nobody is
    told from within `ask`. With `security` nothing is ever sent before the certificate has been verified.
    """

    def __init__(
        self, address: Address, loop: asyncio.AbstractEventLoop, entropy: Entropy, security: Security | None = None
    ) -> None:
        self._address, self._loop, self._entropy, self._security = address, loop, entropy, security
        self._waiting: dict[bytes, _Question] = {}
        self._link: Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._pause, self._not_before = FIRST_PAUSE, 0.0

    def ask(self, asked: Asked, question: bytes, edns: bool, padded: bool, arrived: Arrived) -> bytes:
        """Put a question on the connection; its id, for `forget`."""
        ident = self._entropy.take(2)
        while ident in self._waiting:
            ident = self._entropy.take(2)
        octets = encode_padded(ident, question, asked) if padded else encode_query(ident, question, asked, edns)
        refusal = self._refusal()
        if refusal is not None:
            self._loop.call_soon(arrived, refusal)
            return ident
        self._waiting[ident] = _Question(octets, question, arrived, self._loop.time())
        if self._link is not None:
            self._link.send(octets)
        elif self._connecting is None:
            self._connect()
        return ident

    def forget(self, ident: bytes) -> None:
        """Nobody waits for this question any more."""
        question = self._waiting.pop(ident, None)
        link = self._link
        if question is None or link is None:
            return
        if link.heard < question.since < self._loop.time() - SILENT:
            link.abort()
        else:
            self._rest()

    def close(self) -> None:
        """Close the connection; who still waits is told so."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._idle is not None:
            self._idle.cancel()
        if self._link is not None:
            self._link.abort()
        self._link = None
        self._fail(OSError("closed"))

    def _refusal(self) -> OSError | None:
        if len(self._waiting) >= MAX_PENDING:
            return OSError("too many questions wait on the connection")
        if self._link is None and self._connecting is None and self._loop.time() < self._not_before:
            return OSError("the connection failed a moment ago")
        return None

    def _connect(self) -> None:
        self._connecting = self._loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(CONNECT):
                link = await self._dial()
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._connecting = None
            self._not_before = self._loop.time() + self._pause
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
            self._fail(error if isinstance(error, OSError) and str(error) else OSError("connecting takes too long"))
            return
        self._connecting, self._link, self._pause = None, link, FIRST_PAUSE
        for question in self._waiting.values():
            link.send(question.octets)
        self._rest()

    async def _dial(self) -> Link:
        family, _, _, _, target = self._address.resolve(socket.SOCK_STREAM)
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED)
            await self._loop.sock_connect(made, target)
            context, name = (self._security.context, self._security.name) if self._security is not None else (None, None)
            _, link = await self._loop.create_connection(
                lambda: Link(self._took, self._lost), sock=made, ssl=context, server_hostname=name
            )
        except BaseException:
            made.close()
            raise
        return link

    def _took(self, data: bytes) -> None:
        found = self._waiting.get(data[:2])
        if found is None:
            return  # Too late, nobody waits any more.
        if not matches(data, found.question):
            # Nobody but the server can write here: it is confused, and so would we be.
            if self._link is not None:
                self._link.abort()
            return
        del self._waiting[data[:2]]
        found.arrived(data)
        self._rest()

    def _lost(self, link: Link, error: Exception | None) -> None:
        if link is not self._link:
            return
        self._link = None
        again = {ident: question for ident, question in self._waiting.items() if question.tries}
        lost = [question for question in self._waiting.values() if not question.tries]
        self._waiting = again
        for question in again.values():
            question.tries -= 1
        if again:
            self._connect()
        for question in lost:
            question.arrived(OSError(f"connection lost: {error or 'closed by the server'}"))

    def _fail(self, error: OSError) -> None:
        waiting, self._waiting = self._waiting, {}
        for question in waiting.values():
            question.arrived(error)

    def _rest(self) -> None:
        """Start the time after which an idle connection is closed."""
        if self._idle is None and self._link is not None and not self._waiting:
            self._idle = self._loop.call_later(IDLE, self._idle_over)

    def _idle_over(self) -> None:
        self._idle = None
        if self._link is not None and not self._waiting:
            if self._link.quiet_for(self._loop.time()) >= IDLE:
                self._link.abort()
                self._link = None
            else:
                self._rest()


class Link(asyncio.Protocol):
    """One connection: messages with their length in front (RFC 1035, 4.2.2)."""

    def __init__(self, took: Callable[[bytes], None], lost: Callable[[Link, Exception | None], None]) -> None:
        self._took, self._lost = took, lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._used = self.heard = 0.0
        """Loop times of the last question and of the last octet from the server."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, octets: bytes) -> None:
        """Send one message, unless the connection is about to go, which its owner hears of."""
        self._used = asyncio.get_running_loop().time()
        if self._transport is not None:
            self._transport.write(len(octets).to_bytes(2, "big") + octets)

    def quiet_for(self, now: float) -> float:
        """Seconds since the last question."""
        return now - self._used

    def abort(self) -> None:
        """Close at once; nothing that has arrived is looked at any more."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard = asyncio.get_running_loop().time()
        buffer = self._buffer
        buffer += data
        start = 0
        while self._transport is not None and len(buffer) - start >= 2:
            end = start + 2 + int.from_bytes(buffer[start : start + 2], "big")
            if end > len(buffer):
                break
            message = bytes(buffer[start + 2 : end])
            start = end
            self._took(message)
        del buffer[:start]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._lost(self, error)
