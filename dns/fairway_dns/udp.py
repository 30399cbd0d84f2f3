"""DNS over UDP (RFC 1035, 4.2.1): batches of datagrams, prepared replies first, everything else when there is time for it."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from fairway_core.clock import Clock
from fairway_dns.batch import Batch, client_of
from fairway_dns.books import Books
from fairway_dns.counters import Counters
from fairway_dns.direct import unwatch, watch
from fairway_dns.fastcache import Entry, FastCache
from fairway_dns.knock import is_knock, packed
from fairway_dns.prepared import Prepared
from fairway_dns.resolver import Later, Resolver
from fairway_dns.turn import Datagram, Turn

DISCARD = 9
MAX_DRAIN = 1000
"""Batches read at the end; only a flood that cannot be turned away needs a bound."""


@dataclass(frozen=True, slots=True)
class UdpLimits:
    """`batches` are read in one go before others on the loop get their turn. Of queries without a prepared reply `slice` are
    worked on between two reads and `waiting` may wait, then the newest are dropped. `pending` may wait for upstreams,
    `per_client` for one address.
    """

    batches: int = 8
    slice: int = 16
    waiting: int = 4096
    pending: int = 4000
    per_client: int = 1000


class UdpServer:
    """Answers the datagrams of one socket.

    Promise: a query with a prepared reply never waits for one without, except for the few of one slice.
    """

    def __init__(
        self,
        listener: socket.socket,
        resolver: Resolver,
        prepared: Prepared,
        clock: Clock,
        counters: Counters,
        limits: UdpLimits | None = None,
        books: Books | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._socket = listener
        self._batch = Batch(listener)
        self._resolver = resolver
        self._prepared = prepared
        self._fresh = resolver.fresh
        self._nothing = FastCache()
        self._clock = clock
        self._counters = counters
        self._limits = limits or UdpLimits()
        books = books or Books.empty(clock)
        self._limiter, self._timings, self._top, self._log = books.limiter, books.timings, books.top, books.log
        self._books = books
        self._turn = turn or Turn()
        self._out: list[Datagram] = []
        self._waiting: deque[tuple[bytes, bytes, float]] = deque()
        self._scheduled = False
        self._pending: dict[bytes, int] = {}
        self._total = 0
        self._idle = asyncio.Event()
        self._closed = False
        self._own = packed(listener)
        host = str(listener.getsockname()[0])
        self._read, self._handled = counters.named("read", host), counters.named("handled", host)

    @property
    def waiting(self) -> int:
        """Queries without a prepared reply that wait to be looked at."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to read."""
        watch(asyncio.get_running_loop(), self._socket, self._readable)

    async def close(self, grace: float = 1.0) -> None:
        """Take no more datagrams, answer those that have arrived, wait `grace` seconds for upstreams, close."""
        # A socket connected to nobody leaves its REUSEPORT group, so that new datagrams go to the other workers,
        # while those already queued here can still be read.
        host, _port, *rest = self._socket.getsockname()
        with suppress(OSError):
            self._socket.connect((host, DISCARD, *rest))
        for _ in range(MAX_DRAIN):
            if not self._burst():
                break
            self._work(len(self._waiting))
        unwatch(asyncio.get_running_loop(), self._socket)
        self._work(len(self._waiting))
        if self._total:
            self._idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._idle.wait()
        self._closed = True
        self._socket.close()

    def _readable(self) -> None:
        for _ in range(self._limits.batches):
            # One alone is most likely the last: the next look would cost it more than it could win.
            if self._burst() < 2 or self._scheduled:
                break

    def _burst(self) -> int:
        """Handle one batch; how many datagrams it had."""
        datagrams = self._batch.receive()
        count = len(datagrams)
        self._read[0] += count
        if count and (self._limiter is not None or self._top.open):
            self._screen(datagrams)
        if count == 1 and not self._waiting:
            self._single(datagrams[0], self._clock.monotonic())
        elif count:
            self._many(datagrams, self._clock.monotonic())
        return count

    def _many(self, datagrams: list[bytes], now: float) -> None:
        pieces: list[bytes] = []
        lengths: list[int] = []
        slots: list[int] = []
        missed: list[int] = []
        for slot, (data, entry) in enumerate(zip(datagrams, self._first_look(datagrams), strict=True)):
            if entry is None:
                missed.append(slot)
                continue
            reply, length, until, rotate, count, _aging = entry
            if until <= now:
                missed.append(slot)
                continue
            count[0] += 1
            pieces += (data[:2], reply if rotate is None else rotate())
            lengths.append(length)
            slots.append(slot)
        if missed:
            missed = [slot for slot in missed if not self._found(slot, datagrams[slot], now, pieces, lengths, slots)]
        if lengths:
            sent = self._batch.send(pieces, lengths, slots)
            self._sent(len(lengths), sent)
            took = self._clock.monotonic() - now
            self._timings.fast.observe(took, len(lengths))
            if self._log is not None:
                self._log.batch(pieces, lambda place: client_of(self._batch.sender(slots[place])), took)
        if missed:
            self._enqueue(missed, datagrams, now)

    def _single(self, data: bytes, now: float) -> None:
        """A datagram that came alone: the same as for a batch, without what brings many together."""
        sender, client = self._batch.origin()
        views = self._prepared.views
        reply = self._prepared.find(views.askers.get(client, views.anybody), data, now)
        if reply is None and self._fresh is not None:
            reply = self._fresh.reply(views.askers.get(client, views.anybody), data)
        if reply is None:
            if data or self._limiter is None:
                self._answer(data, sender, client, now)
            return
        self._send(data[:2] + reply, sender)
        took = self._clock.monotonic() - now
        self._timings.fast.observe(took)
        if self._log is not None:
            self._log.batch((data[:2], reply), lambda _place: client, took)

    def _first_look(self, datagrams: list[bytes]) -> list[Entry | None]:
        """The prepared reply to each datagram, if it is among those most in use for its sender."""
        prepared, views = self._prepared, self._prepared.views
        if not prepared.apart:
            get = prepared.shared(views.anybody).hot.get
            return [get(data[2:]) for data in datagrams]
        asker, anybody, nothing = views.askers.get, views.anybody, self._nothing
        clients = self._batch.clients(len(datagrams))
        return [
            (asker(client, anybody).shared or nothing).hot.get(data[2:]) for client, data in zip(clients, datagrams, strict=True)
        ]

    def _found(self, slot: int, data: bytes, now: float, pieces: list[bytes], lengths: list[int], slots: list[int]) -> bool:
        """The second look, at what is kept in other places or quickly made: rare enough for a call of its own."""
        views = self._prepared.views
        asker = views.asker(client_of(self._batch.sender(slot))) if views.askers else views.anybody
        reply = self._prepared.find(asker, data, now)
        if reply is None and self._fresh is not None:
            reply = self._fresh.reply(asker, data)
        if reply is None:
            return False
        pieces += (data[:2], reply)
        lengths.append(len(reply) + 2)
        slots.append(slot)
        return True

    def _enqueue(self, slots: list[int], datagrams: list[bytes], now: float) -> None:
        if self._limiter is not None:
            slots = [slot for slot in slots if datagrams[slot]]
        room = self._limits.waiting - len(self._waiting)
        for slot in slots[:room]:
            self._waiting.append((datagrams[slot], self._batch.sender(slot), now))
        if len(slots) > room:
            self._counters.add("overload", count=len(slots) - room)
        if not self._scheduled:
            self._next_slice()

    def _screen(self, datagrams: list[bytes]) -> None:
        """Have clients kept to their limits and counted. What is over the limit of its sender is emptied, which drops it: any
        reply costs as much as the right one.
        """
        if self._limiter is not None:
            now = self._clock.monotonic()
            for slot, data in enumerate(datagrams):
                client = client_of(self._batch.sender(slot))
                if not is_knock(data, client, self._own) and not self._limiter.admit(client, now):
                    datagrams[slot] = b""
                    self._handled[0] += 1
        if self._top.open:
            clients = [client_of(self._batch.sender(slot)) for slot in range(len(datagrams))]
            asked = [pair for pair in zip(datagrams, clients, strict=True) if not is_knock(*pair, self._own)]
            if asked:
                self._top.sample([data for data, _ in asked], lambda slot: asked[slot][1])

    def _knocked(self, data: bytes, sender: bytes) -> None:
        """The agent wants to know whether we are there."""
        reply = self._resolver.probe(data)
        if reply is not None:
            self._send(reply, sender)

    def _next_slice(self) -> None:
        try:
            self._work(self._limits.slice)
        finally:
            # Whatever became of one query, the others wait.
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._next_slice)

    def _work(self, most: int) -> None:
        """Answer up to `most` of the queries that wait; what leaves, leaves together."""
        with self._turn:
            for _ in range(min(most, len(self._waiting))):
                data, sender, since = self._waiting.popleft()
                self._answer(data, sender, client_of(sender), since)

    def _answer(self, data: bytes, sender: bytes, client: bytes, since: float) -> None:
        if is_knock(data, client, self._own):
            self._knocked(data, sender)
            return
        reply = self._resolver.handle(data, tcp=False, client=client)
        if isinstance(reply, bytes):
            self._send(reply, sender)
            took = self._clock.monotonic() - since
            self._books.answered(reply, client, took, forwarded=False, transport="udp")
        elif reply is not None:
            self._later(reply, sender, client, since)
        else:
            self._handled[0] += 1

    def _later(self, reply: Later, sender: bytes, client: bytes, since: float) -> None:
        waiting = self._pending.get(client, 0)
        if self._total >= self._limits.pending or waiting >= self._limits.per_client:
            self._counters.add("overload")
            reply.drop()
            return
        self._pending[client] = waiting + 1
        self._total += 1
        reply.start(self._fetched, (sender, since))

    def _fetched(self, reply: bytes, ticket: tuple[bytes, float]) -> None:
        """A reply has come for a sender whose query was read at that time."""
        sender, since = ticket
        self._send(reply, sender)
        host = client_of(sender)
        self._total -= 1
        left = self._pending[host] - 1
        if left:
            self._pending[host] = left
        else:
            del self._pending[host]
        self._books.answered(reply, host, self._clock.monotonic() - since, forwarded=True, transport="udp")
        if not self._total:
            self._idle.set()

    def _send(self, reply: bytes, sender: bytes) -> None:
        if self._turn.open:
            if not self._out:
                self._turn.at_end(self._flush)
            self._out.append((reply, sender))
        # A number that is no longer ours may be that of another socket by now.
        elif not self._closed:
            self._sent(1, int(self._batch.send_to(reply, sender)))

    def _flush(self) -> None:
        out, self._out = self._out, []
        if not self._closed:
            self._sent(len(out), len(out) - len(self._turn.sender.send(self._socket.fileno(), out)))

    def _sent(self, tried: int, done: int) -> None:
        self._handled[0] += done
        if done < tried:
            self._counters.add("send_errors", count=tried - done)
