"""The agent's side: pushes the zone to every worker over a unix socket and knows who has which revision."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fairway_dns.learned import Admitted, Learned
from fairway_dns.protocol import VERSION, Ack, Delta, Frame, FrameReader, Hello, ProtocolError, decode, encode, snapshot
from fairway_dns.reports import Lines, Ping, Stats, Top, Watch
from fairway_dns.views import Fact
from fairway_dns.zone import Record, ZoneDelta
from fairway_kernel.unixsocket import listen_unix

BACKLOG = 64
"""Deltas that may wait for one worker; a slower one gets a fresh snapshot instead."""
LARGE = 2000
"""Records; a larger delta would stall both loops as one frame, so it travels as a snapshot in chunks."""
HELLO_TIMEOUT = 5.0
TOPS = 5
"""Reports of who asks what that are kept of each worker; one comes every second while somebody looks."""
CLOGGED = 1 << 20
"""Octets waiting to be sent to a worker above which it is not pinged on top."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A connected worker. `acked` is the revision it answers from (None: not yet told), `stats` what it measured since its
    start.
    """

    pid: int
    acked: int | None
    stats: Stats

    @property
    def counters(self) -> Mapping[str, int]:
        """Its counts by "name:label"."""
        return self.stats.counters


@dataclass(eq=False, slots=True)
class _Connection:
    writer: asyncio.StreamWriter
    pid: int
    acked: int | None = None
    stats: Stats = field(default_factory=lambda: Stats({}))
    heard: int = 0
    tops: deque[Top] = field(default_factory=lambda: deque(maxlen=TOPS))
    queue: deque[bytes] = field(default_factory=deque)
    stale: bool = True
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def push(self, data: bytes) -> None:
        if not self.stale:
            self.queue.append(data)
            if len(self.queue) > BACKLOG:
                self.mark_stale()
        self.wake.set()

    def mark_stale(self) -> None:
        self.queue.clear()
        self.stale = True
        self.wake.set()


class ZoneFeed:
    """Promise: every connected worker gets every revision in order, or a later snapshot in its place; nothing is sent before
    the first `reset` or `publish`; memory per worker is bounded. All methods are for the event loop's thread.
    """

    def __init__(self, path: Path | str, log: logging.Logger | None = None, scoped: bool = False) -> None:
        """`scoped`: records say what they belong to and facts who may see it; workers hide the rest."""
        self._path = Path(path)
        self._log = log or logging.getLogger(__name__)
        self._scoped = scoped
        self._records: set[Record] = set()
        self._facts: set[Fact] = set()
        self._revision: int | None = None
        self._connections: set[_Connection] = set()
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.queries: Callable[[Lines], None] = lambda _lines: None
        """Is told of each part of the query log."""
        self.learned: Callable[[Learned, Callable[[float], None]], None] = lambda _learned, answer: answer(0.0)
        """Is asked by a worker that holds a reply back; answers once: seconds for which the addresses are let through."""

    async def start(self) -> None:
        """Listen, readable and writable for the own user only. Raises ConflictError if another process serves this path."""
        listener = await asyncio.to_thread(listen_unix, self._path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)

    async def close(self) -> None:
        """Disconnect all workers and remove the socket. The workers go on serving what they have."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self, table: Iterable[Record], revision: int, facts: Iterable[Fact] = ()) -> None:
        """Replace the whole table: at the agent's start, and whenever history is broken."""
        self._records, self._facts = set(table), set(facts)
        self._revision = revision
        for connection in self._connections:
            connection.mark_stale()

    def publish(self, delta: ZoneDelta, revision: int) -> None:
        """Send a change; an empty one moves the revision all the same."""
        self._records -= delta.remove
        self._records |= delta.add
        self._facts -= delta.views.remove
        self._facts |= delta.views.add
        self._revision = revision
        if len(delta) > LARGE:
            for connection in self._connections:
                connection.mark_stale()
            return
        data = encode(Delta(delta, revision))
        for connection in self._connections:
            connection.push(data)

    def frames(self) -> Iterable[Frame]:
        """What a worker that connects now would be sent: a snapshot, or nothing before there is a table. To be gone through once,
        by any thread; the table it tells of is that of the call.
        """
        if self._revision is None:
            return ()
        return snapshot(tuple(self._records), self._revision, tuple(self._facts), self._scoped)

    @property
    def scoped(self) -> bool:
        """Whether anything is hidden from anybody."""
        return self._scoped

    @property
    def facts(self) -> frozenset[Fact]:
        """A copy of what is known of views and scopes."""
        return frozenset(self._facts)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """The connected workers, by pid."""
        found = (WorkerInfo(c.pid, c.acked, c.stats) for c in self._connections)
        return tuple(sorted(found, key=lambda info: info.pid))

    def acked(self) -> int | None:
        """The revision that every connected worker answers from; None if there is no worker or one has none yet."""
        revisions = [connection.acked for connection in self._connections]
        known = [revision for revision in revisions if revision is not None]
        return min(known) if known and len(known) == len(revisions) else None

    async def wait_acked(self, revision: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds until `acked()` is at least `revision`; whether it is."""

        def reached() -> bool:
            acked = self.acked()
            return acked is not None and acked >= revision

        with suppress(TimeoutError):
            async with asyncio.timeout(timeout), self._changed:
                await self._changed.wait_for(reached)
        return reached()

    def ping(self, pid: int) -> None:
        """See `fairway_dns.health.Pulse`."""
        for connection in self._connections:
            if connection.pid == pid and connection.writer.transport.get_write_buffer_size() < CLOGGED:
                connection.writer.write(encode(Ping(connection.heard)))

    def heard(self, pid: int) -> int:
        """See `fairway_dns.health.Pulse`."""
        return sum(connection.heard for connection in self._connections if connection.pid == pid)

    def watch(self, seconds: float) -> None:
        """Let the workers tell who asks what, for so many seconds from now."""
        for connection in self._connections:
            if connection.writer.transport.get_write_buffer_size() < CLOGGED:
                connection.writer.write(encode(Watch(seconds)))

    def forget_tops(self) -> None:
        """What was told of who asks what is old."""
        for connection in self._connections:
            connection.tops.clear()

    def tops(self) -> tuple[tuple[Top, ...], ...]:
        """What each worker told lately of who asks what, the latest last."""
        return tuple(tuple(connection.tops) for connection in self._connections)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._converse(reader, writer)
        except (ProtocolError, OSError, TimeoutError) as error:
            self._log.warning("dns worker connection ended: %s", error)
        except asyncio.CancelledError:
            # Only `close` cancels; a handler that ended as cancelled would be reported by asyncio's stream machinery.
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = FrameReader()
        first: list[bytes] = []
        async with asyncio.timeout(HELLO_TIMEOUT):
            while not first:
                first = list(frames.feed(await _read(reader)))
        hello = decode(first.pop(0))
        if not isinstance(hello, Hello) or hello.version != VERSION:
            raise ProtocolError(f"expected hello of version {VERSION}, got {hello}")
        connection = _Connection(writer, hello.pid)
        connection.mark_stale()
        self._connections.add(connection)
        sender = asyncio.create_task(self._send(connection))
        try:
            for body in first:
                await self._receive(connection, body)
            while True:
                for body in frames.feed(await _read(reader)):
                    await self._receive(connection, body)
        except EOFError:
            return
        finally:
            self._connections.discard(connection)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await self._notify()

    async def _receive(self, connection: _Connection, body: bytes) -> None:
        frame = decode(body)
        connection.heard += 1
        if isinstance(frame, Ack):
            connection.acked = frame.revision
            await self._notify()
        elif isinstance(frame, Stats):
            connection.stats = frame
        elif isinstance(frame, Top):
            connection.tops.append(frame)
        elif isinstance(frame, Lines):
            self.queries(frame)
        elif isinstance(frame, Learned):
            self.learned(frame, partial(_admit, connection, frame.ticket))

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _send(self, connection: _Connection) -> None:
        with suppress(OSError):
            while True:
                await connection.wake.wait()
                connection.wake.clear()
                if connection.stale and self._revision is not None:
                    await self._send_snapshot(connection, self._revision)
                while connection.queue:
                    connection.writer.write(connection.queue.popleft())
                    await connection.writer.drain()

    async def _send_snapshot(self, connection: _Connection, revision: int) -> None:
        # From here on deltas queue up behind the snapshot, which is taken now.
        connection.stale = False
        for frame in snapshot(tuple(self._records), revision, tuple(self._facts), self._scoped):
            connection.writer.write(encode(frame))
            await connection.writer.drain()
            await asyncio.sleep(0)


async def _read(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(1 << 16)
    if not data:
        raise EOFError
    return data


def _admit(connection: _Connection, ticket: int, seconds: float) -> None:
    # Ahead of whatever waits for this worker: it holds a reply for this.
    if not connection.writer.transport.is_closing():
        connection.writer.write(encode(Admitted(ticket, seconds)))
