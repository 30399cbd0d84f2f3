"""A DNS worker process: `python -m fairway_dns.worker` (options: README.md). Wires the parts; the only place that does.

It owns its sockets, answers from its own table, and outlives the agent: SIGTERM is its only end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fairway_core.clock import SystemClock
from fairway_core.errors import UserError
from fairway_core.logs import configure
from fairway_dns.books import Books
from fairway_dns.cache import Cache
from fairway_dns.client import FeedClient
from fairway_dns.complete import Completion
from fairway_dns.config import Address, WorkerConfig, parse_address, parse_host, parse_stub
from fairway_dns.counters import Counters
from fairway_dns.direct import DirectLoop
from fairway_dns.fixed import authorities_of, empty_zone, host_records
from fairway_dns.forward import Forwarder, Routes
from fairway_dns.holding import Holder
from fairway_dns.identity import Identity
from fairway_dns.limits import ClientLimits, RateLimiter
from fairway_dns.measure import NameKinds, Timings
from fairway_dns.names import to_key, to_text
from fairway_dns.prefetch import Prefetcher
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Delta, ProtocolError, encode, snapshot
from fairway_dns.querylog import LogSettings, QueryLog
from fairway_dns.reports import Stats
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import listen_tcp, listen_udp
from fairway_dns.state import StateFile
from fairway_dns.table import Moved, Table
from fairway_dns.tcp import TcpLimits, TcpServer
from fairway_dns.tls import client_context
from fairway_dns.top import TopCounter
from fairway_dns.turn import Turn
from fairway_dns.udp import UdpServer
from fairway_dns.wire import TYPE_NAMES
from fairway_dns.zone import Record

READY_FD = "FAIRWAY_READY_FD"
"""Environment: a descriptor to write one line to once all sockets are bound."""
FIRST_TABLE, FRESH_TABLE = 3.0, 0.5
"""Seconds that a worker waits for the agent's table before it listens, without a table and with one from disk."""


class Worker:
    """All parts of one worker. Raises OSError from `start` if an address cannot be bound, ValueError for a bad domain or
    range.
    """

    def __init__(self, config: WorkerConfig, log: logging.Logger) -> None:
        clock = SystemClock()
        self._config = config
        self._log = log
        self._counters, self._timings, self._cache = Counters(), Timings(), Cache(clock)
        self._top = TopCounter(clock)
        self._prepared = Prepared()
        self._holder = Holder(clock, self._counters)
        self._fixed = frozenset(host_records(config))
        self._table = Table(partial(empty_zone, config), self._changed)
        self._clock = clock
        self._state = StateFile(Path(config.state), clock) if config.state else None
        own = [Address(address, config.port) for address in config.listen]
        self._turn = Turn()
        tls = client_context(config.tls_ca) if config.uses_tls else None

        def forwarder(servers: Sequence[Address]) -> Forwarder:
            return Forwarder(
                servers, own, clock, turn=self._turn, security=tls, counters=self._counters, timings=self._timings, log=log
            )

        stubs = {to_key(zone): forwarder(servers) for zone, servers in config.stubs}
        self._forwarder = Routes(forwarder(config.upstreams), stubs)
        Prefetcher(self._cache, self._forwarder, self._counters)
        authorities = authorities_of(config)
        parts = authorities, self._cache, self._forwarder, self._counters, log
        completion, identity = Completion(config.domain, authorities), Identity(config.identity)
        limiter = RateLimiter(config.limits.qps, self._counters) if config.limits.qps else None
        self._query_log = QueryLog(config.query_log, clock) if config.query_log.on else None
        self._books = Books(self._timings, self._top, limiter, self._query_log)
        kinds = NameKinds(config.domain, dict(config.hosts), stubs)
        self._resolver = Resolver(self._table, *parts, self._prepared, completion, identity, kinds, self._holder)
        self._udp: list[UdpServer] = []
        self._tcp: list[TcpServer] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set."""
        self._load()
        path = Path(self._config.feed)
        reports = self._stats, self._log, self._frames, self._top, self._query_log
        client = FeedClient(path, self._table, self._state, *reports, self._holder)
        background = [asyncio.create_task(client.run()), asyncio.create_task(self._flush())]
        await self._first_table(client)
        if self._resolver.fresh is not None:
            self._resolver.fresh.prepare()
        gc.freeze()
        await self._listen()
        self._log.info("listening on %s port %d", ", ".join(self._config.listen), self._config.port)
        _tell_ready()
        await stop.wait()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._close()

    async def _first_table(self, client: FeedClient) -> None:
        """A worker that takes a share of the port away from others must know what they know; the table from disk may lack the
        last second. Without an agent there is nothing to wait for.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TABLE if self._table.zone.revision is None else FRESH_TABLE):
                while not client.current and not client.refused:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    def _stats(self) -> Stats:
        gauges = {
            "cache_entries": len(self._cache),
            "cache_octets": self._cache.octets,
            "prepared_replies": len(self._prepared),
            "forwarding": self._forwarder.pending,
            "connections": sum(one.held for one in self._tcp),
            "waiting": sum(one.waiting for one in self._udp),
            "held": self._holder.held,
        }
        return Stats(dict(self._counters.values), self._timings.values, gauges)

    async def _listen(self) -> None:
        for address in self._config.listen:
            listener = listen_udp(address, self._config.port)
            stream = listen_tcp(address, self._config.port)
            tcp_limits = TcpLimits(per_client=self._config.limits.connections)
            rest = self._clock, self._counters
            self._udp.append(UdpServer(listener, self._resolver, self._prepared, *rest, None, self._books, self._turn))
            self._tcp.append(TcpServer(stream, self._resolver, *rest, tcp_limits, self._books))
        for udp in self._udp:
            udp.start()
        for tcp in self._tcp:
            await tcp.start()

    def _changed(self, moved: Moved) -> None:
        self._prepared.follow(self._table, moved)
        if moved.patterns:
            self._holder.forget()

    async def _close(self) -> None:
        await asyncio.gather(*(udp.close() for udp in self._udp), *(tcp.close() for tcp in self._tcp))
        await self._forwarder.close()
        if self._state is not None:
            self._state.flush(force=True)
        self._log.info("stopped")

    def _load(self) -> None:
        """Take over the table of an earlier worker. What cannot be used is left: then the zone answers SERVFAIL until the
        agent comes.
        """
        if self._state is None:
            return
        try:
            for frame in self._state.load():
                # Workers of one node share the file, so a delta may be there twice or behind a newer snapshot.
                if isinstance(frame, Begin) and self._config.views and not frame.scoped:
                    self._log.info("table from disk: it does not say who may see what, so it is not used")
                    return
                if not isinstance(frame, Delta) or frame.revision > (self._table.zone.revision or 0):
                    self._table.take(frame)
        except ProtocolError as error:
            self._log.warning("state file: %s", error)
        zone = self._table.zone
        self._log.info("table from disk: revision %s, %d records", zone.revision, len(zone))

    def _frames(self) -> Iterator[bytes]:
        """The table as it is now, to be written down little by little."""
        zone = self._table.zone
        rows = list(zone.records())
        records = (Record(to_text(key), TYPE_NAMES[rtype], data, scope) for key, rtype, data, scope in rows)
        # Fixed names come from the settings of the next worker, not from the file.
        pushed = (record for record in records if record not in self._fixed)
        facts = tuple(self._table.views.facts)
        return map(encode, snapshot(pushed, zone.revision or 0, facts, zone.scoped))

    async def _flush(self) -> None:
        while self._state is not None:
            await asyncio.sleep(1.0)
            while self._state.step():  # noqa: ASYNC110
                await asyncio.sleep(0)
            self._state.flush()
            if self._state.error is not None:
                self._log.error("state file: %s", self._state.error)


def _tell_ready() -> None:
    text = os.environ.get(READY_FD, "")
    if text.isdigit():
        with suppress(OSError):
            os.write(int(text), b"ready\n")
            os.close(int(text))


def parse_arguments(argv: Sequence[str]) -> WorkerConfig:
    """The command line as settings. Raises UserError for a bad address; exits with 2 for bad usage, as argparse does."""
    parser = argparse.ArgumentParser(prog="fairway-dns-worker", description="Answer DNS queries from the agent's zone table.")
    parser.add_argument("--feed", required=True, help="unix socket of the agent's zone feed")
    parser.add_argument("--listen", action="append", required=True, help="literal address; may be repeated")
    parser.add_argument("--port", type=int, default=53)
    parser.add_argument("--upstream", action="append", default=[], help="[tls://]ADDRESS[:PORT][#NAME]; may be repeated")
    parser.add_argument("--tls-ca", default="", help="file with the authorities that certificates of upstreams come from")
    parser.add_argument("--private", action="append", default=[], help="CIDR of services or pods; may be repeated")
    parser.add_argument("--host", action="append", default=[], help="NAME=ADDRESS[,ADDRESS …]; may be repeated")
    parser.add_argument("--stub", action="append", default=[], help="ZONE=ADDRESS[:PORT][,…]: its own servers; may be repeated")
    parser.add_argument("--state", default="", help="file that keeps the table over a restart")
    parser.add_argument("--domain", default="cluster.local")
    parser.add_argument("--views", action="store_true", help="answer only from a table that says who may see what")
    parser.add_argument("--identity", default="", help="what clients are told that ask for the server's name (NSID)")
    parser.add_argument("--client-qps", type=int, default=0, help="queries per second of one client; 0: no limit")
    parser.add_argument("--client-connections", type=int, default=64, help="TCP connections of one client")
    parser.add_argument("--query-log", default="0,0,0", help="SAMPLE,SLOW,FAILURES: share of all, seconds, 0 or 1")
    parser.add_argument("--release", default="", help="not used; a worker of another release has another command line")
    found = parser.parse_args(argv)
    upstreams = tuple(parse_address(text) for text in found.upstream)
    domain = found.domain.rstrip(".").lower()
    listen = tuple(parse_address(text).host for text in found.listen)
    hosts, stubs = tuple(map(parse_host, found.host)), tuple(map(parse_stub, found.stub))
    limits = ClientLimits(found.client_qps, found.client_connections)
    if not 0 < found.port < 65536:
        raise UserError(f"no port: {found.port}")
    if limits.qps < 0 or limits.connections < 1:
        raise UserError(f"no limits: {limits}")
    return WorkerConfig(
        feed=found.feed,
        listen=listen,
        port=found.port,
        upstreams=upstreams,
        tls_ca=found.tls_ca,
        state=found.state,
        domain=domain,
        private=tuple(found.private),
        hosts=hosts,
        stubs=stubs,
        views=found.views,
        identity=found.identity,
        limits=limits,
        release=found.release,
        query_log=LogSettings.from_word(found.query_log),
    )


async def _main(config: WorkerConfig, log: logging.Logger) -> None:
    # A table of 10,000 services is 100,000s of objects without cycles; full collections over them were measured to stop
    # the loop for 0.2 s. Young ones go on and are enough for what asyncio leaves behind; they pass over the table (gc.freeze).
    gc.set_threshold(20_000, 20, 100_000)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Worker(config, log).run(stop)


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; exit code 0, 1 if an address cannot be bound, 2 for bad arguments."""
    log = configure().getChild("dns")
    try:
        config = parse_arguments(sys.argv[1:] if argv is None else argv)
        with asyncio.Runner(loop_factory=DirectLoop) as runner:
            runner.run(_main(config, log))
    except (UserError, ValueError) as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
