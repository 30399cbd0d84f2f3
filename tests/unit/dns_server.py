"""The sockets of a DNS worker on loopback, in this process, with a table of records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from fairway_core.clock import SystemClock
from fairway_dns.authority import standard_authorities
from fairway_dns.books import Books
from fairway_dns.cache import Cache
from fairway_dns.config import Address
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.limits import RateLimiter
from fairway_dns.measure import Timings
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, End
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import listen_tcp, listen_udp
from fairway_dns.table import Table
from fairway_dns.tcp import TcpLimits, TcpServer
from fairway_dns.top import TopCounter
from fairway_dns.udp import UdpServer
from fairway_dns.zone import Record, Zone


class Serving:
    """`async with`: UDP and TCP on one port."""

    def __init__(
        self, records: Iterable[Record] = (), upstreams: Sequence[Address] = (), tcp: TcpLimits | None = None, qps: int = 0
    ) -> None:
        clock, self.counters, prepared = SystemClock(), Counters(), Prepared()
        books = Books(Timings(), TopCounter(clock), RateLimiter(qps, self.counters) if qps else None)
        self.table = Table(Zone, lambda moved: prepared.follow(self.table, moved))
        for frame in (Begin(1), Chunk(frozenset(records)), End(1)):
            self.table.take(frame)
        self.cache, self.forwarder = Cache(clock), Forwarder(upstreams, (), clock)
        parts = standard_authorities("cluster.local"), self.cache, self.forwarder, self.counters
        resolver = Resolver(self.table, *parts, logging.getLogger("test"), prepared)
        stream = self.stream_socket = listen_tcp("127.0.0.1", 0)
        self.address: tuple[str, int] = stream.getsockname()
        self.udp = UdpServer(listen_udp(*self.address), resolver, prepared, clock, self.counters, None, books)
        self.tcp = TcpServer(stream, resolver, clock, self.counters, tcp, books)
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Serving:
        self.udp.start()
        await self.tcp.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        await self.udp.close(0.0)
        await self.tcp.close(0.0)
        await self.forwarder.close()

    async def stream(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client's connection."""
        reader, writer = await asyncio.open_connection(*self.address)
        self._writers.append(writer)
        return reader, writer
