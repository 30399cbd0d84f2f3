"""Connections of clients: their ends, their limits, and what is answered before they close."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import dns.message
import pytest
from tests.unit.dns_server import Serving

from fairway_dns.config import Address
from fairway_dns.sockets import BACKLOG
from fairway_dns.tcp import ACCEPTS, TcpLimits
from fairway_dns.zone import Record

QUERY = dns.message.make_query("localhost", "A").to_wire()
BIG = "big.shop.svc.cluster.local"


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


async def reply(reader: asyncio.StreamReader) -> dns.message.Message:
    return dns.message.from_wire(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Silent:
    """An upstream that answers when it is told to."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.socket.setblocking(False)
        self.address = Address(*self.socket.getsockname())
        self.seen: list[tuple[bytes, tuple[str, int]]] = []

    async def gather(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.seen) < count:
                with suppress(BlockingIOError):
                    self.seen.append(self.socket.recvfrom(512))
                    continue
                await asyncio.sleep(0.01)

    def answer(self) -> None:
        for data, sender in self.seen:
            self.socket.sendto(data[:2] + b"\x81\x80" + data[4:], sender)
        self.seen = []


@asynccontextmanager
async def serving(limits: TcpLimits | None = None, upstream: Silent | None = None, qps: int = 0) -> AsyncIterator[Serving]:
    records = [Record(BIG, "A", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}") for n in range(3000)]
    made = Serving(records, (upstream.address,) if upstream else (), tcp=limits, qps=qps)
    async with made:
        async with asyncio.timeout(20):
            yield made


async def test_who_has_finished_gets_all_replies_and_then_the_end() -> None:
    upstream = Silent()
    async with serving(upstream=upstream) as server:
        reader, writer = await server.stream()
        outside = dns.message.make_query("www.example.com", "A").to_wire()
        writer.write(framed(outside) + framed(QUERY) * 100)
        writer.write_eof()
        for _ in range(100):
            assert (await reply(reader)).answer
        await upstream.gather(1)
        upstream.answer()
        assert (await reply(reader)).question[0].name.to_text() == "www.example.com."
        assert await reader.read() == b""
        await until(lambda: server.tcp.held == 0)


async def test_waiting_for_the_limit_outlives_the_end_of_the_queries() -> None:
    async with serving(TcpLimits(send=0.2, idle=0.4), qps=10) as server:
        reader, writer = await server.stream()
        writer.write(framed(QUERY) * 20)
        writer.write_eof()
        for _ in range(20):
            assert (await reply(reader)).answer
        assert await reader.read() == b""


async def test_half_a_message_and_a_reply_close_the_connection() -> None:
    async with serving() as server:
        for sent in (framed(QUERY)[:-1], b"\0", framed(QUERY)[:3]):
            reader, writer = await server.stream()
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == b""
        reader, writer = await server.stream()
        writer.write(framed(QUERY[:2] + b"\x81" + QUERY[3:]) + framed(QUERY))
        with suppress(ConnectionError):
            assert await reader.read() == b""
        await until(lambda: server.tcp.held == 0)


async def test_octets_that_are_no_query_keep_no_connection() -> None:
    async with serving(TcpLimits(idle=0.5)) as server:
        reader, writer = await server.stream()
        started = asyncio.get_running_loop().time()
        for octet in framed(QUERY) * 4:
            writer.write(bytes((octet,)))
            if reader.at_eof():
                break
            await asyncio.sleep(0.05)
        # Whole queries came every 1.3 s: one octet at a time is not enough.
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - started < 2.0
        quick, other = await server.stream()
        for _ in range(5):
            other.write(framed(QUERY))
            assert (await reply(quick)).answer
            await asyncio.sleep(0.2)


async def test_who_takes_no_replies_is_read_no_further_and_dropped() -> None:
    async with serving(TcpLimits(send=0.5, idle=30)) as server:
        made = socket.socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made.setblocking(False)
        await asyncio.get_running_loop().sock_connect(made, server.address)
        query = dns.message.make_query(BIG, "A").to_wire()
        sent = 0
        with made:
            while sent < 30_000:
                try:
                    made.send(framed(query) * 10)
                    sent += 10
                except (BlockingIOError, ConnectionError):
                    break
            await until(lambda: server.counters.values.get("replies:NOERROR", 0) > 2)
            await until(lambda: server.tcp.held == 0)
        # Of 48,000 octets each: what fits into the kernel's buffers and ours.
        assert server.counters.values["replies:NOERROR"] < 300


async def test_a_pipeline_is_bounded_and_goes_on() -> None:
    upstream = Silent()
    async with serving(TcpLimits(pipelined=4), upstream) as server:
        reader, writer = await server.stream()
        names = [f"n{number}.example" for number in range(10)]
        writer.write(b"".join(framed(dns.message.make_query(name, "A").to_wire()) for name in names))
        got: list[str] = []
        for _ in range(3):
            await upstream.gather(min(4, 10 - len(got)))
            await asyncio.sleep(0.05)
            assert len(upstream.seen) == min(4, 10 - len(got))
            for _ in range(len(upstream.seen)):
                if upstream.seen:
                    upstream.answer()
                got.append((await reply(reader)).question[0].name.to_text(omit_final_dot=True))
        assert sorted(got) == names


async def test_a_burst_of_connections_has_room_and_is_taken_in_parts() -> None:
    async with serving() as server:
        info = server.stream_socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        # tcpi_sacked of a listening socket is the length of its queue (tcp_diag(7)).
        assert int.from_bytes(info[28:32], "little") == BACKLOG
        burst = [socket.create_connection(server.address) for _ in range(60)]
        held = []
        for _ in range(20):
            await asyncio.sleep(0)
            held.append(server.tcp.held)
        assert max(b - a for a, b in pairwise([0, *held])) <= ACCEPTS
        await until(lambda: server.tcp.held == 60)
        for one in burst:
            one.close()


async def test_queries_make_no_tasks() -> None:
    upstream = Silent()
    async with serving(upstream=upstream) as server:
        reader, writer = await server.stream()
        before = len(asyncio.all_tasks())
        for number in range(20):
            writer.write(framed(dns.message.make_query(f"n{number}.example", "A").to_wire()))
        await upstream.gather(20)
        assert len(asyncio.all_tasks()) == before
        upstream.answer()
        for _ in range(20):
            await reply(reader)


async def test_a_worker_that_stops_answers_what_is_under_way() -> None:
    upstream = Silent()
    async with serving(upstream=upstream) as server:
        reader, writer = await server.stream()
        idle, _ = await server.stream()
        writer.write(framed(dns.message.make_query("www.example.com", "A").to_wire()))
        await upstream.gather(1)
        closing = asyncio.create_task(server.tcp.close())
        assert await idle.read() == b""
        upstream.answer()
        assert (await reply(reader)).question[0].name.to_text() == "www.example.com."
        assert await reader.read() == b""
        await closing


async def test_a_worker_that_stops_waits_no_longer_than_it_may() -> None:
    upstream = Silent()
    async with serving(upstream=upstream) as server:
        reader, writer = await server.stream()
        writer.write(framed(dns.message.make_query("www.example.com", "A").to_wire()))
        await upstream.gather(1)
        await server.tcp.close(0.1)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await reply(reader)
