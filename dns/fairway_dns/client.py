"""The worker's side of the zone feed: connect, keep the table current, acknowledge, come back after a loss."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from fairway_dns.holding import Holder
from fairway_dns.learned import Admitted, Learned
from fairway_dns.protocol import (
    VERSION,
    Ack,
    Begin,
    Chunk,
    Delta,
    End,
    Frame,
    FrameReader,
    Hello,
    ProtocolError,
    decode,
    encode,
)
from fairway_dns.querylog import QueryLog
from fairway_dns.reports import Ping, Pong, Stats, Watch
from fairway_dns.state import StateFile
from fairway_dns.table import Table
from fairway_dns.top import TopCounter

FIRST_DELAY = 0.05
LAST_DELAY = 1.0
STATS_INTERVAL = 1.0
CLOGGED = 1 << 20
"""Octets waiting to be sent to the agent above which it is asked nothing more."""


class FeedClient:
    """Promise: `table` is never emptied by a lost connection; every revision that became visible is acknowledged afterwards,
    not before.
    """

    def __init__(
        self,
        path: Path,
        table: Table,
        state: StateFile | None,
        stats: Callable[[], Stats],
        log: logging.Logger,
        compact: Callable[[], Iterator[bytes]],
        top: TopCounter | None = None,
        log_of_queries: QueryLog | None = None,
        holder: Holder | None = None,
    ) -> None:
        self._path = path
        self._table = table
        self._state = state
        self._stats = stats
        self._log = log
        self._compact = compact
        self._top = top
        self._queries = log_of_queries
        self._holder = holder
        self._snapshot: list[bytes] = []
        self.refused = False
        """Whether there was no agent at the last attempt to connect."""
        self.current = False
        """Whether the agent's table was taken over since the start."""

    async def run(self) -> None:
        """Stay connected until cancelled."""
        delay = FIRST_DELAY
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                self.refused = True
                # Jitter keeps the workers of a node from knocking in step.
                await asyncio.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, LAST_DELAY)
                continue
            delay, self.refused = FIRST_DELAY, False
            self._log.info("connected to the agent")
            try:
                await self._converse(reader, writer)
            except (OSError, EOFError, ProtocolError) as error:
                self._log.warning("connection to the agent lost, serving on: %s", error or "closed")
            finally:
                writer.close()
            await asyncio.sleep(delay)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(Hello(VERSION, os.getpid(), self._table.zone.revision)))
        reporter = asyncio.create_task(self._report(writer))
        frames = FrameReader()
        if self._holder is not None:
            self._holder.connect(partial(_send, writer))
        try:
            while data := await reader.read(1 << 16):
                for body in frames.feed(data):
                    self._take(body, writer)
                    # One long snapshot must not hold up queries, nor what it replaces.
                    await asyncio.sleep(0)
                    while self._table.shed():  # noqa: ASYNC110
                        await asyncio.sleep(0)
        finally:
            if self._holder is not None:
                self._holder.disconnect()
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    def _take(self, body: bytes, writer: asyncio.StreamWriter) -> None:
        frame = decode(body)
        match frame:
            case Ping(number):
                writer.write(encode(Pong(number)))
                return
            case Watch(seconds):
                if self._top is not None:
                    self._top.watch(seconds)
                return
            case Admitted():
                if self._holder is not None:
                    self._holder.admitted(frame)
                return
        ack = self._table.take(frame)
        if isinstance(frame, Chunk | End):
            # A table has no cycles and lives long. To look through it for garbage was measured to stop a worker for 40 ms.
            gc.freeze()
        self._remember(frame, len(body).to_bytes(4, "big") + body)
        if isinstance(ack, Ack):
            self.current = True
            writer.write(encode(ack))

    def _remember(self, frame: Frame, raw: bytes) -> None:
        if self._state is None:
            return
        match frame:
            case Begin():
                self._snapshot = [raw]
            case Chunk():
                self._snapshot.append(raw)
            case End():
                self._state.replace([*self._snapshot, raw])
                self._snapshot = []
            case Delta():
                self._state.append(raw)
                if self._state.wants_compaction:
                    self._state.begin(self._compact())
        self._state.flush()

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        sent = Stats({})
        while True:
            if (stats := self._stats()) != sent:
                sent = stats
                writer.write(encode(stats))
            if self._top is not None and self._top.open:
                writer.write(encode(self._top.take()))
            lines = self._queries.take() if self._queries is not None else None
            if lines is not None:
                writer.write(encode(lines))
            await asyncio.sleep(STATS_INTERVAL)


def _send(writer: asyncio.StreamWriter, question: Learned) -> bool:
    """Whether it is on its way."""
    if writer.transport.is_closing() or writer.transport.get_write_buffer_size() > CLOGGED:
        return False
    writer.write(encode(question))
    return True
