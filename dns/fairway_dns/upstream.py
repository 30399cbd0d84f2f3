"""One upstream server: a pool of connected UDP sockets, and TCP for what was truncated (RFC 5452, RFC 7766).

Connected sockets take datagrams from the server only and learn of its refusal at once (ICMP). The kernel draws a random port
for each; ids come from the system's generator; a socket is given up after a number of questions, so that ports change too. A
socket is drawn anew when nothing waits on it, and else after a few questions: answers that come together are read together.
Questions and replies meet through callbacks: a task per question would cost more than everything else together.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from typing import Final, Protocol

from fairway_dns.config import Address
from fairway_dns.direct import unwatch, watch
from fairway_dns.question import Asked, Entropy, encode_query, in_mixed_case, question_of
from fairway_dns.response import Response, matches, matches_but_case, parse_response
from fairway_dns.stream import Stream
from fairway_dns.turn import Turn
from fairway_dns.wire import FORMERR, HEADER, NOERROR, NXDOMAIN, WireError

SOCKETS: Final = 32
USES: Final = 256
MAX_PENDING: Final = 256
RUN: Final = 16
"""Questions in a row through one socket, at most."""
MAX_DATAGRAM: Final = 4096
"""Octets read of a reply; we advertise 1232."""
STUBBORN: Final = 3
"""Answers in a row that have lost the case of the question until a server is believed to do that always."""
PLAIN_FOR: Final = 3600.0
"""Seconds until such a server is asked in mixed case again."""


GOOD: Final = (NOERROR, NXDOMAIN)


@dataclass(frozen=True, slots=True)
class Unusable:
    """An upstream cannot answer now: refused, cut off, or an rcode that another server may better; `response` holds the
    latter.
    """

    reason: str
    response: Response | None = None


class Asker(Protocol):
    """Who wants an answer."""

    def settle(self, attempt: Attempt, outcome: Response | Unusable) -> None:
        """Called once for each attempt that was not cancelled, never from within `ask`."""
        ...


class Server(Protocol):
    """One upstream, whatever the transport."""

    address: Address

    def ask(self, asked: Asked, asker: Asker, now: float, mixed: bool = True) -> Attempt:
        """Ask the server; `asker` is told once, later: an answer (NOERROR or NXDOMAIN), or Unusable for everything else. There is
        no time limit: the asker cancels. `mixed`: in random case, where the transport needs it.
        """
        ...

    def close(self) -> None:
        """Close every socket. Questions under way are for the asker to cancel first."""
        ...


class Carrier(Protocol):
    """A socket or a connection that questions wait on."""

    def forget(self, ident: bytes) -> None:
        """Nobody waits for the question of this id any more."""
        ...


class Attempt:
    """One question to one server, asked at `since` (monotonic). After `cancel` nothing is told any more."""

    carrier: Carrier | None = None
    """What the question waits on."""
    ident = question = b""
    edns, mixed, again = True, False, False

    def __init__(self, asked: Asked, asker: Asker, server: Server, since: float) -> None:
        self.asked, self.server, self.since = asked, server, since
        self.asker: Asker | None = asker

    def finish(self, outcome: Response | Unusable) -> None:
        """Tell the outcome, once."""
        asker, self.asker = self.asker, None
        if asker is not None:
            asker.settle(self, outcome)

    def cancel(self) -> None:
        """Give the question up."""
        self.asker = None
        if self.carrier is not None:
            self.carrier.forget(self.ident)


class _Channel:
    """One connected socket and the questions that wait on it."""

    def __init__(self, upstream: Upstream, loop: asyncio.AbstractEventLoop) -> None:
        self._upstream, self._loop, self._turn = upstream, loop, upstream.turn
        self.waiting: dict[bytes, Attempt] = {}
        self._out: list[Attempt] = []
        self.uses = 0
        self._retired = False
        family, _, _, _, target = upstream.address.resolve(socket.SOCK_DGRAM)
        self._socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(target)
        except OSError:
            self._socket.close()
            raise
        watch(loop, self._socket, self._readable)

    def send(self, attempt: Attempt, ident: bytes) -> None:
        """Send the attempt's question under an id that nothing waits for here, at the end of the turn if there is one. Raises
        OSError.
        """
        self.uses += 1
        attempt.ident = ident
        if not self._turn.open:
            self._socket.send(encode_query(ident, attempt.question, attempt.asked, attempt.edns))
        else:
            if not self._out:
                self._turn.at_end(self._flush)
            self._out.append(attempt)
        attempt.carrier = self
        self.waiting[ident] = attempt

    def _flush(self) -> None:
        out, self._out = self._out, []
        # Who was cancelled within the turn has left the channel, which may even be closed.
        out = [attempt for attempt in out if attempt.carrier is self]
        if out:
            for index, errno in self._turn.sender.send(self._socket.fileno(), [(_octets(attempt), b"") for attempt in out]):
                self._drop(out[index], os.strerror(errno))
            self._close_if_retired()

    def _drop(self, attempt: Attempt, reason: str) -> None:
        self.waiting.pop(attempt.ident, None)
        attempt.carrier = None
        attempt.finish(Unusable(reason))

    def forget(self, ident: bytes) -> None:
        """Nobody waits for this question any more."""
        attempt = self.waiting.pop(ident, None)
        if attempt is not None:
            attempt.carrier = None
        self._close_if_retired()

    def retire(self) -> None:
        """Take no more questions; close when the last is answered."""
        self._retired = True
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        if self._retired and not self.waiting:
            self.close()

    def close(self) -> None:
        unwatch(self._loop, self._socket)
        self._socket.close()

    def _readable(self) -> None:
        if len(self.waiting) > 1:
            with self._turn:
                self._read()
        else:
            self._read()

    def _read(self) -> None:
        for _ in range(MAX_PENDING):
            try:
                data = self._socket.recv(MAX_DATAGRAM)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._fail(error)
                return
            self._deliver(data)
            if not self.waiting:
                # Closed, perhaps; in any case there is nothing to read but guesses, and the loop comes back for those.
                return

    def _deliver(self, data: bytes) -> None:
        attempt = self.waiting.get(data[:2])
        # What does not match is somebody's guess: it is ignored, and the question goes on waiting (RFC 5452, 9).
        if attempt is None:
            return
        if matches(data, attempt.question):
            del self.waiting[attempt.ident]
            attempt.carrier = None
            self._upstream.arrived(attempt, data)
            if self._retired:
                self._close_if_retired()
        elif attempt.mixed and matches_but_case(data, attempt.question):
            del self.waiting[attempt.ident]
            attempt.carrier = None
            self._upstream.lost_case(attempt)

    def _fail(self, error: OSError) -> None:
        waiting, self.waiting = self.waiting, {}
        for attempt in waiting.values():
            self._drop(attempt, str(error))
        self._close_if_retired()


def _octets(attempt: Attempt) -> bytes:
    return encode_query(attempt.ident, attempt.question, attempt.asked, attempt.edns)


class Upstream:
    """A server asked over UDP, and over TCP for what does not fit (a `Server`).

    Letters go out in random case, and the reply must have the same: 20 more bits to guess for a name of 20 letters. A reply that
    differs in case only is not believed, but the question is asked once more in lower case; a server that does so three times
    in a row, or answers only lower-case questions, gets no mixed case for an hour.
    """

    def __init__(self, address: Address, loop: asyncio.AbstractEventLoop, turn: Turn) -> None:
        self.address, self.turn = address, turn
        self._loop = loop
        self._entropy = Entropy()
        self._channels: list[_Channel | None] = [None] * SOCKETS
        self._current: _Channel | None = None
        self._left = 0
        self._stream: Stream | None = None
        self._losses = 0
        self._plain_until = 0.0

    def ask(self, asked: Asked, asker: Asker, now: float, mixed: bool = True) -> Attempt:
        """See `Server`."""
        attempt = Attempt(asked, asker, self, now)
        name = asked.name
        if not mixed:
            attempt.again = True
        elif now >= self._plain_until:
            attempt.mixed = True
            name = in_mixed_case(name, self._entropy.take(len(name)))
        attempt.question = question_of(asked, name)
        self._send(attempt)
        return attempt

    def _send(self, attempt: Attempt) -> None:
        try:
            noise = self._entropy.take(3)
            channel, ident = self._channel(noise[2]), noise[:2]
            while ident in channel.waiting:
                ident = self._entropy.take(2)
            channel.send(attempt, ident)
        except OSError as error:
            self._loop.call_soon(attempt.finish, Unusable(str(error)))

    def arrived(self, attempt: Attempt, data: bytes) -> None:
        """A reply to the attempt's question came in over UDP."""
        try:
            response = parse_response(data, HEADER + len(attempt.question))
        except WireError as error:
            attempt.finish(Unusable(str(error)))
            return
        if response.truncated:
            self._ask_stream(attempt)
        elif response.tail.rcode == FORMERR and attempt.edns:
            # Servers from before RFC 6891 answer FORMERR to an OPT record (6.2.2).
            attempt.edns = False
            self._send(attempt)
        else:
            attempt.finish(response if response.tail.rcode in GOOD else judged(response))
            if attempt.mixed:
                self._losses = 0
            elif attempt.again:
                self.missed_case(attempt.since)

    def lost_case(self, attempt: Attempt) -> None:
        """The server, or who claims to be it, does not keep the case of letters."""
        self.missed_case(attempt.since)
        attempt.mixed = False
        attempt.question = question_of(attempt.asked, attempt.asked.name)
        self._send(attempt)

    def missed_case(self, now: float) -> None:
        """Mixed case got no good answer, lower case might."""
        self._losses += 1
        if self._losses >= STUBBORN:
            self._losses, self._plain_until = 0, now + PLAIN_FOR

    def _ask_stream(self, attempt: Attempt) -> None:
        if self._stream is None:
            self._stream = Stream(self.address, self._loop, self._entropy)
        ask_stream(self._stream, attempt, padded=False)

    def _channel(self, chance: int) -> _Channel:
        """The socket for the next question; `chance` (an octet) decides which, when it is time for another one."""
        current = self._current
        self._left -= 1
        if current is not None and self._left >= 0 and 0 < len(current.waiting) < MAX_PENDING and current.uses < USES:
            return current
        index = chance % SOCKETS
        channel = self._channels[index]
        if channel is None or channel.uses >= USES or len(channel.waiting) >= MAX_PENDING:
            fresh = _Channel(self, self._loop)
            if channel is not None:
                channel.retire()
            self._channels[index] = channel = fresh
        self._current, self._left = channel, RUN - 1
        return channel

    def close(self) -> None:
        """See `Server`."""
        for channel in self._channels:
            if channel is not None:
                channel.close()
        self._channels, self._current = [None] * SOCKETS, None
        if self._stream is not None:
            self._stream.close()


def judged(response: Response) -> Response | Unusable:
    """What other servers need not be asked about, or why they should."""
    rcode = response.tail.rcode
    return response if rcode in GOOD else Unusable(f"rcode {rcode}", response)


def ask_stream(stream: Stream, attempt: Attempt, padded: bool) -> None:
    """Put an attempt's question on a connection; its asker is told."""

    def arrived(outcome: bytes | OSError) -> None:
        attempt.carrier = None
        try:
            if isinstance(outcome, OSError):
                raise outcome
            response = parse_response(outcome, HEADER + len(attempt.question))
            attempt.finish(Unusable("cut off") if response.truncated else judged(response))
        except (OSError, WireError) as error:
            attempt.finish(Unusable(str(error)))

    attempt.carrier = stream
    attempt.ident = stream.ask(attempt.asked, attempt.question, attempt.edns, padded, arrived)
