"""One upstream server: a pool of connected UDP sockets, and TCP for what was truncated (RFC 5452, RFC 7766).

Connected sockets take datagrams from the server only and learn of its refusal at once (ICMP). The kernel draws a random port
for each; ids come from the system's generator; a socket is given up after a number of questions, so that ports change too.
Questions and replies meet through callbacks: a task per question would cost more than everything else together.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from fairway_dns.cache import Asked
from fairway_dns.config import Address
from fairway_dns.response import Response, matches, parse_response
from fairway_dns.wire import FORMERR, HEADER, IN, NOERROR, NXDOMAIN, WireError, build_query

SOCKETS = 32
USES = 256
MAX_PENDING = 256
ENTROPY = 1024
"""Octets taken from the system's generator at a time."""


@dataclass(frozen=True, slots=True)
class Unusable:
    """An upstream cannot answer now: refused, cut off, or an rcode that another server may better; `response` holds the
    latter.
    """

    reason: str
    response: Response | None = None


Done = Callable[[Response | Unusable], None]
Arrived = Callable[[bytes | OSError], None]


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0]
    return found[0], found[4]


class _Ids:
    """Unpredictable 16-bit numbers."""

    def __init__(self) -> None:
        self._octets = b""
        self._used = 0

    def draw(self) -> int:
        if self._used >= len(self._octets):
            self._octets, self._used = os.urandom(ENTROPY), 0
        self._used += 2
        return self._octets[self._used - 2] << 8 | self._octets[self._used - 1]


class _Channel:
    """One connected socket and the questions that wait on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, address: Address, ids: _Ids) -> None:
        self._loop = loop
        self._ids = ids
        self._waiting: dict[int, tuple[bytes, Arrived]] = {}
        self._uses = 0
        self._retired = False
        family, target = _resolve(address)
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(target)
        except OSError:
            self._socket.close()
            raise
        loop.add_reader(self._socket, self._readable)

    def ask(self, asked: Asked, edns: bool, arrived: Arrived) -> int:
        """Send the question under a fresh id, which is returned; `arrived` is called once, later. Raises OSError."""
        self._uses += 1
        ident = self._ids.draw()
        while ident in self._waiting:
            ident = self._ids.draw()
        query = build_query(
            ident, asked.name, asked.qtype, edns=edns, dnssec=asked.dnssec, checking_disabled=asked.checking_disabled
        )
        self._socket.send(query)
        self._waiting[ident] = (query[HEADER : HEADER + len(asked.name) + 4], arrived)
        return ident

    def forget(self, ident: int) -> None:
        """Nobody waits for this question any more."""
        self._waiting.pop(ident, None)
        self._close_if_retired()

    @property
    def spent(self) -> bool:
        return self._uses >= USES or len(self._waiting) >= MAX_PENDING

    def retire(self) -> None:
        """Take no more questions; close when the last is answered."""
        self._retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired and not self._waiting:
            self.close()

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(MAX_PENDING):
            try:
                data = self._socket.recv(65535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            self._deliver(data)
            if not self._waiting:
                # Closed, perhaps; in any case there is nothing to read but guesses, and the loop comes back for those.
                return

    def _deliver(self, data: bytes) -> None:
        ident = int.from_bytes(data[:2], "big")
        question, arrived = self._waiting.get(ident, (b"", None))
        # What does not match is somebody's guess: it is ignored, and the question goes on waiting (RFC 5452, 9).
        if arrived is not None and matches(data, ident, question):
            del self._waiting[ident]
            arrived(data)
            self._close_if_retired()

    def _fail(self, error: OSError) -> None:
        waiting, self._waiting = self._waiting, {}
        for _question, arrived in waiting.values():
            arrived(error)
        self._close_if_retired()


@dataclass(eq=False, slots=True)
class Attempt:
    """One question to one server. After `cancel` nothing is called any more."""

    asked: Asked
    done: Done | None
    channel: _Channel | None = None
    ident: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def finish(self, outcome: Response | Unusable) -> None:
        """Tell the outcome, once."""
        done, self.done = self.done, None
        if done is not None:
            done(outcome)

    def cancel(self) -> None:
        """Give the question up."""
        self.done = None
        if self.channel is not None:
            self.channel.forget(self.ident)
        for task in self.tasks:
            task.cancel()


class Upstream:
    """Promise: `ask` tells a matching reply or that there is none; it has no time limit of its own, the caller cancels it."""

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop) -> None:
        self.address = address
        self._loop = loop
        self._ids = _Ids()
        self._channels: list[_Channel | None] = [None] * SOCKETS

    def ask(self, asked: Asked, done: Done) -> Attempt:
        """Ask the server; `done` is called once, later: an answer (NOERROR or NXDOMAIN), or Unusable for everything else."""
        attempt = Attempt(asked, done)
        self._send(attempt, edns=True)
        return attempt

    def _send(self, attempt: Attempt, edns: bool) -> None:
        def arrived(outcome: bytes | OSError) -> None:
            attempt.channel = None
            self._arrived(attempt, edns, outcome)

        try:
            channel = self._channel()
            attempt.ident = channel.ask(attempt.asked, edns, arrived)
            attempt.channel = channel
        except OSError as error:
            self._loop.call_soon(attempt.finish, Unusable(f"{self.address}: {error}"))

    def _arrived(self, attempt: Attempt, edns: bool, outcome: bytes | OSError) -> None:
        try:
            if isinstance(outcome, OSError):
                raise outcome
            response = parse_response(outcome)
        except (OSError, WireError) as error:
            attempt.finish(Unusable(f"{self.address}: {error}"))
            return
        if response.truncated:
            attempt.tasks.append(self._loop.create_task(self._retry_over_tcp(attempt, edns)))
        elif response.tail.rcode == FORMERR and edns:
            # Servers from before RFC 6891 answer FORMERR to an OPT record (6.2.2).
            self._send(attempt, edns=False)
        else:
            attempt.finish(self._judge(response))

    def _judge(self, response: Response) -> Response | Unusable:
        rcode = response.tail.rcode
        return response if rcode in (NOERROR, NXDOMAIN) else Unusable(f"{self.address}: rcode {rcode}", response)

    async def _retry_over_tcp(self, attempt: Attempt, edns: bool) -> None:
        try:
            outcome = self._judge(await self._ask_tcp(attempt.asked, edns))
        except (OSError, WireError, EOFError) as error:
            outcome = Unusable(f"{self.address}: {error}")
        attempt.finish(outcome)

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
        index = self._ids.draw() % SOCKETS
        channel = self._channels[index]
        if channel is None or channel.spent:
            fresh = _Channel(self._loop, self.address, self._ids)
            if channel is not None:
                channel.retire()
            self._channels[index] = channel = fresh
        return channel

    def close(self) -> None:
        """Close every socket. Questions under way are for the caller to cancel first."""
        for channel in self._channels:
            if channel is not None:
                channel.close()
        self._channels = [None] * SOCKETS
