"""One client cannot take the server away from the others: rates, connections, and what is dropped when too much comes."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress

import dns.edns
import dns.message
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairway_core.clock import SystemClock
from fairway_dns.authority import standard_authorities
from fairway_dns.books import Books
from fairway_dns.cache import Cache
from fairway_dns.config import Address
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.identity import Identity
from fairway_dns.knock import question
from fairway_dns.limits import CLIENTS, NAMED, RateLimiter
from fairway_dns.measure import Timings
from fairway_dns.prepared import Prepared
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import listen_tcp, listen_udp
from fairway_dns.table import Table
from fairway_dns.tcp import TcpLimits, TcpServer
from fairway_dns.top import TopCounter
from fairway_dns.udp import UdpLimits, UdpServer
from fairway_dns.zone import Zone

QUERY = dns.message.make_query("localhost", "A").to_wire()


@given(st.integers(1, 50), st.lists(st.floats(0, 0.5), max_size=200))
def test_a_client_gets_its_rate_and_one_second_of_it_at_once(qps: int, gaps: list[float]) -> None:
    limiter, now, tokens, admitted = RateLimiter(qps, Counters()), 1000.0, float(qps), 0
    for gap in gaps:
        now += gap
        tokens = min(float(qps), tokens + gap * qps)
        if abs(tokens - round(tokens)) < 1e-6:
            tokens = round(tokens) + 1e-7  # On the edge both verdicts are right; let both take the same side.
        if limiter.admit(b"\1\1\1\1", now + 1e-7):
            admitted += 1
            tokens -= 1
            assert tokens > -1e-3
        else:
            assert tokens < 1 + 1e-3
    assert admitted <= qps * (now - 1000 + 1) + 1


def test_clients_do_not_share_a_limit_and_memory_is_bounded() -> None:
    counters = Counters()
    limiter = RateLimiter(1, counters)
    for number in range(3 * CLIENTS):
        client = number.to_bytes(4, "big")
        assert limiter.admit(client, 50.0)
        assert not limiter.admit(client, 50.0)
    assert len(limiter._spent) <= CLIENTS
    named = {key: count for key, count in counters.values.items() if key.startswith("limited:")}
    assert len(named) == NAMED + 1
    assert named["limited:0.0.0.7"] == 1
    assert sum(named.values()) == 3 * CLIENTS


class Server:
    """The sockets of a worker on loopback, in this process."""

    def __init__(
        self,
        stack: ExitStack,
        qps: int = 0,
        udp: UdpLimits | None = None,
        tcp: TcpLimits | None = None,
        upstreams: Sequence[Address] = (),
    ) -> None:
        clock, self.counters, prepared = SystemClock(), Counters(), Prepared()
        limiter = RateLimiter(qps, self.counters) if qps else None
        books = Books(Timings(), TopCounter(clock), limiter)
        authorities, log = standard_authorities("cluster.local"), logging.getLogger("test")
        forwarder = Forwarder(upstreams, (), clock)
        resolver = Resolver(
            Table(Zone), authorities, Cache(clock), forwarder, self.counters, log, prepared, identity=Identity("node-7", 2.5)
        )  # fmt: skip
        # A port that is free for TCP may be another test's connection for UDP, but hardly so.
        stream = listen_tcp("127.0.0.1", 0)
        self.address = stream.getsockname()
        self.udp = UdpServer(listen_udp(*self.address), resolver, prepared, clock, self.counters, udp, books)
        self.tcp = TcpServer(stream, resolver, clock, self.counters, tcp, books)
        self._stack = stack
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Server:
        self.udp.start()
        await self.tcp.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for writer in self._writers:
            writer.close()
        await self.udp.close()
        await self.tcp.close()

    def client(self, host: str) -> socket.socket:
        made = self._stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made.bind((host, 0))
        made.connect(self.address)
        made.setblocking(False)
        return made

    async def stream(self, host: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address, local_addr=(host, 0))
        self._writers.append(writer)
        return reader, writer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def replies(client: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(client.recv(4096))
        except BlockingIOError:
            return found


async def test_over_udp_the_loud_client_is_cut_and_its_neighbour_is_not(stack: ExitStack) -> None:
    async with Server(stack, qps=20) as server:
        loud, calm = server.client("127.0.0.2"), server.client("127.0.0.3")
        started = time.monotonic()
        for _ in range(10):
            for _ in range(20):
                loud.send(QUERY)
            calm.send(QUERY)
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        took = time.monotonic() - started
        assert len(replies(calm)) == 10
        served = len(replies(loud))
        assert 20 <= served <= 20 * (took + 1) + 1
        assert server.counters.values["limited:127.0.0.2"] == 200 - served
        assert "limited:127.0.0.3" not in server.counters.values


async def test_over_tcp_it_waits_and_loses_nothing(stack: ExitStack) -> None:
    async with Server(stack, qps=20) as server:
        reader, writer = await server.stream("127.0.0.2")
        started = time.monotonic()
        writer.write((len(QUERY).to_bytes(2, "big") + QUERY) * 30)
        async with asyncio.timeout(20):
            for _ in range(30):
                await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        assert time.monotonic() - started > 0.4


async def test_connections_are_counted_per_client(stack: ExitStack) -> None:
    async with Server(stack, tcp=TcpLimits(connections=4, per_client=2)) as server:

        async def served(host: str) -> tuple[bool, asyncio.StreamWriter]:
            reader, writer = await server.stream(host)
            try:
                writer.write(len(QUERY).to_bytes(2, "big") + QUERY)
                return bool(await asyncio.wait_for(reader.read(100), 5)), writer
            except ConnectionError:
                return False, writer

        first, _ = [await served("127.0.0.2") for _ in range(2)]
        assert first[0]
        assert not (await served("127.0.0.2"))[0]
        assert (await served("127.0.0.3"))[0]
        assert (await served("127.0.0.4"))[0]
        assert not (await served("127.0.0.5"))[0]
        assert server.counters.values["tcp_refused:"] == 2
        first[1].close()
        async with asyncio.timeout(5):
            while not (await served("127.0.0.2"))[0]:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_a_long_pipeline_lets_others_have_their_turn(stack: ExitStack) -> None:
    async with Server(stack) as server:
        reader, writer = await server.stream("127.0.0.2")
        writer.write((len(QUERY).to_bytes(2, "big") + QUERY) * 3000)
        turns = 0
        async with asyncio.timeout(20):
            done = asyncio.create_task(reader.readexactly(3000 * (2 + len(QUERY) + 16)))
            while not done.done():
                turns += 1
                await asyncio.sleep(0)
        assert turns > 100


async def test_when_too_many_wait_the_newest_are_dropped(stack: ExitStack) -> None:
    server = Server(stack, udp=UdpLimits(slice=1, waiting=8))
    client = server.client("127.0.0.2")
    for number in range(50):
        client.send(dns.message.make_query(f"n{number}.invalid", "A", id=number).to_wire())
    async with server:
        async with asyncio.timeout(10):
            while server.counters.values.get("replies:NXDOMAIN", 0) < 8:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert [int.from_bytes(reply[:2], "big") for reply in replies(client)] == list(range(8))
        assert server.counters.values["overload:"] == 42


async def test_a_query_that_breaks_the_server_is_the_only_one_without_an_answer(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(stack, udp=UdpLimits(slice=1))
    handle = Resolver.handle

    def fragile(self: Resolver, data: bytes, tcp: bool, client: bytes = b"") -> object:
        if data[:2] == b"\0\0":
            raise RuntimeError("no good")
        return handle(self, data, tcp, client)

    monkeypatch.setattr(Resolver, "handle", fragile)
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))
    client = server.client("127.0.0.2")
    async with server:
        for first in (0, 3):
            for number in range(first, first + 3):
                client.send(dns.message.make_query(f"n{number}.invalid", "A", id=number).to_wire())
            found: list[int] = []
            async with asyncio.timeout(10):
                while len(found) < (3 if first else 2):
                    await asyncio.sleep(0.01)
                    found += [int.from_bytes(reply[:2], "big") for reply in replies(client)]
            assert sorted(found) == ([3, 4, 5] if first else [1, 2])
    assert [str(error) for error in told] == ["no good"]


async def test_one_client_cannot_take_all_places_of_those_who_wait_for_upstreams(stack: ExitStack) -> None:
    upstream = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    upstream.bind(("127.0.0.1", 0))
    upstream.setblocking(False)
    limits = UdpLimits(pending=8, per_client=5)
    async with Server(stack, udp=limits, upstreams=[Address(*upstream.getsockname())]) as server:

        async def count(name: str, least: int) -> None:
            async with asyncio.timeout(10):
                while server.counters.values.get(name, 0) < least:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        async def answer(client: socket.socket, least: int) -> list[int]:
            found: list[int] = []
            async with asyncio.timeout(10):
                while len(found) < least:
                    with suppress(BlockingIOError):
                        data, back = upstream.recvfrom(4096)
                        upstream.sendto(data[:2] + b"\x81\x80" + data[4:], back)
                        continue
                    await asyncio.sleep(0.01)
                    found += [int.from_bytes(reply[:2], "big") for reply in replies(client)]
            return sorted(found)

        loud, quiet = server.client("127.0.0.2"), server.client("127.0.0.3")
        for number in range(20):
            loud.send(dns.message.make_query(f"n{number}.example", "A", id=number).to_wire())
        await count("overload:", 15)
        for number in range(5):
            quiet.send(dns.message.make_query(f"q{number}.example", "A", id=number).to_wire())
        await count("overload:", 17)
        assert server.counters.values["queries:A"] == 25
        assert await answer(loud, 5) == [0, 1, 2, 3, 4]
        assert await answer(quiet, 3) == [0, 1, 2]
        # The places are free again.
        loud.send(dns.message.make_query("more.example", "A", id=77).to_wire())
        assert await answer(loud, 1) == [77]
        assert server.counters.values["overload:"] == 17


async def test_only_the_agent_may_knock_without_being_counted(stack: ExitStack) -> None:
    knock = question("cluster.local")
    async with Server(stack, qps=1) as server:

        async def knocks(host: str, least: int) -> int:
            client, found = server.client(host), 0
            for number in range(5):
                client.send(number.to_bytes(2, "big") + knock[2:])
            async with asyncio.timeout(10):
                while found < least:
                    await asyncio.sleep(0.01)
                    found += len(replies(client))
            return found

        # 127.0.0.1 is the address of the server itself.
        assert await knocks("127.0.0.1", 5) == 5
        assert set(server.counters.values) == {"read:127.0.0.1", "handled:127.0.0.1"}
        assert await knocks("127.0.0.2", 1) == 1
        assert server.counters.values["queries:TXT"] == 1
        assert server.counters.values["limited:127.0.0.2"] == 4


async def test_options_are_answered_only_if_they_are_asked_for(stack: ExitStack) -> None:
    async with Server(stack) as server:
        client = server.client("127.0.0.2")
        reader, writer = await server.stream("127.0.0.2")

        async def ask(tcp: bool, *codes: int) -> dict[int, bytes]:
            options = [dns.edns.GenericOption(dns.edns.OptionType.make(code), b"") for code in codes]
            wire = dns.message.make_query("localhost", "A", use_edns=0, options=options).to_wire()
            if tcp:
                writer.write(len(wire).to_bytes(2, "big") + wire)
                data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            else:
                client.send(wire)
                data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), 5)
            return {int(option.otype): option.to_wire() for option in dns.message.from_wire(data).options}

        for tcp in (False, True):
            assert await ask(tcp) == {}
            assert await ask(tcp, 3) == {3: b"node-7"}
            assert await ask(tcp, 10, 65001) == {}
        assert await ask(False, 11) == {}
        assert await ask(True, 11) == {11: (25).to_bytes(2, "big")}


@pytest.mark.parametrize(
    ("name", "rtype", "rdclass", "flags", "rcode", "code"),
    [
        ("web.shop.svc.cluster.local", "A", "IN", 0x100, dns.rcode.SERVFAIL, 14),
        ("www.example.com", "A", "CH", 0x100, dns.rcode.REFUSED, 21),
        ("cluster.local", "AXFR", "IN", 0x100, dns.rcode.REFUSED, 18),
        ("www.example.com", "A", "IN", 0, dns.rcode.REFUSED, 20),
    ],
)
async def test_refusals_and_failures_say_why(
    stack: ExitStack, name: str, rtype: str, rdclass: str, flags: int, rcode: int, code: int
) -> None:
    async with Server(stack) as server:
        for edns in (-1, 0):
            client = server.client("127.0.0.2")
            client.send(dns.message.make_query(name, rtype, rdclass, use_edns=edns, flags=flags).to_wire())
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), 5)
            reply = dns.message.from_wire(data)
            assert reply.rcode() == rcode
            found = [(int(option.code), option.text) for option in reply.options if isinstance(option, dns.edns.EDEOption)]
            assert (found == []) == (edns < 0)
            assert all(given == code and text for given, text in found)
