"""The forwarder against real servers on real sockets, inside a namespace."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from fairway_core.clock import SystemClock
from fairway_dns.config import Address
from fairway_dns.forward import Forwarder, ForwardLimits
from fairway_dns.names import to_key
from fairway_dns.question import Asked
from fairway_kernel.netns import run_in

pytestmark = pytest.mark.needs_root

Reply = Callable[[dns.message.Message, bool], list[bytes]]
QUICK = ForwardLimits(patience=0.3, total=1.0)


def inside(namespace: str, body: Callable[[], Awaitable[None]]) -> None:
    subprocess.run(["ip", "-n", Path(namespace).name, "link", "set", "lo", "up"], check=True)

    async def run() -> None:
        await body()

    run_in(namespace, lambda: asyncio.run(run()))


class Server(asyncio.DatagramProtocol):
    """A name server whose answers a function gives; remembers what it was asked, and from where."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.seen: list[tuple[int, int, str]] = []

    async def start(self, host: str, port: int = 53) -> Server:
        loop = asyncio.get_running_loop()
        self.transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(host, port))
        self.tcp = await asyncio.start_server(self.stream, host, port)
        return self

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        self.seen.append((query.id, address[1], query.question[0].name.to_text()))
        for reply in self.reply(query, False):
            self.transport.sendto(reply, address)  # type: ignore[attr-defined]

    async def stream(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        for reply in self.reply(dns.message.from_wire(data), True):
            writer.write(len(reply).to_bytes(2, "big") + reply)
        writer.close()


def response(query: dns.message.Message, *addresses: str, rcode: int = 0, flags: int = 0) -> bytes:
    made = dns.message.make_response(query)
    made.flags |= flags
    made.set_rcode(dns.rcode.Rcode(rcode))
    if addresses:
        made.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", *addresses))
    return made.to_wire(max_size=65535)


def good(query: dns.message.Message, tcp: bool) -> list[bytes]:
    return [response(query, "192.0.2.1")]


def silent(query: dns.message.Message, tcp: bool) -> list[bytes]:
    return []


def failing(query: dns.message.Message, tcp: bool) -> list[bytes]:
    return [response(query, rcode=2)]


def forwarder(*hosts: str, own: tuple[Address, ...] = (), limits: ForwardLimits = QUICK) -> Forwarder:
    return Forwarder([Address(host) for host in hosts], own, SystemClock(), limits)


def asked(name: str = "www.example.com") -> Asked:
    return Asked(to_key(name), 1)


def test_ids_and_ports_vary_and_questions_arrive_whole(namespace: str) -> None:
    async def body() -> None:
        server = await Server(good).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        found = await asyncio.gather(*(uplink.resolve(asked(f"n{n}.example.com")) for n in range(300)))
        assert all(reply.tail.answers == 1 and reply.ttl == 60 for reply in found)
        assert len({ident for ident, _port, _name in server.seen}) > 290
        assert len({port for _ident, port, _name in server.seen}) > 8
        assert uplink.pending == 0
        await uplink.close()

    inside(namespace, body)


def test_equal_questions_share_one_flight(namespace: str) -> None:
    async def body() -> None:
        server = await Server(good).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        found = await asyncio.gather(*(uplink.resolve(asked()) for _ in range(50)))
        assert len(server.seen) == 1
        assert {reply.tail.answers for reply in found} == {1}
        await uplink.close()

    inside(namespace, body)


def test_guesses_are_ignored(namespace: str) -> None:
    def forged(query: dns.message.Message, tcp: bool) -> list[bytes]:
        wrong_id = bytearray(response(query, "6.6.6.6"))
        wrong_id[0] ^= 1
        other = dns.message.make_query("evil.example.com", "A")
        other.id = query.id
        return [bytes(wrong_id), response(other, "6.6.6.6"), b"", b"junk", query.to_wire(), response(query, "192.0.2.1")]

    async def body() -> None:
        await Server(forged).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        reply = await uplink.resolve(asked())
        assert bytes((192, 0, 2, 1)) in reply.tail.body
        assert bytes((6, 6, 6, 6)) not in reply.tail.body
        await uplink.close()

    inside(namespace, body)


def test_a_silent_server_costs_one_patience_once(namespace: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        dead = await Server(silent).start("127.0.0.2")
        await Server(good).start("127.0.0.3")
        uplink = forwarder("127.0.0.2", "127.0.0.3")
        start = loop.time()
        assert (await uplink.resolve(asked())).tail.answers == 1
        assert 0.3 <= loop.time() - start < 0.9
        start = loop.time()
        assert (await uplink.resolve(asked("other.example.com"))).tail.answers == 1
        assert loop.time() - start < 0.25
        assert len(dead.seen) == 1
        await uplink.close()

    inside(namespace, body)


@pytest.mark.parametrize("first", [None, failing], ids=["closed port", "servfail"])
def test_a_server_that_fails_is_passed_over_at_once(namespace: str, first: Reply | None) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        if first is not None:
            await Server(first).start("127.0.0.2")
        await Server(good).start("127.0.0.3")
        uplink = forwarder("127.0.0.2", "127.0.0.3")
        start = loop.time()
        assert (await uplink.resolve(asked())).tail.answers == 1
        assert loop.time() - start < 0.25
        await uplink.close()

    inside(namespace, body)


def test_a_lost_datagram_is_sent_again_and_a_late_answer_is_taken(namespace: str) -> None:
    count = iter(range(10))

    def lossy(query: dns.message.Message, tcp: bool) -> list[bytes]:
        return good(query, tcp) if next(count) else []

    async def body() -> None:
        await Server(lossy).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        assert (await uplink.resolve(asked())).tail.answers == 1
        await uplink.close()

    inside(namespace, body)


def test_when_all_fail_the_answer_is_servfail_in_bounded_time(namespace: str) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        await Server(silent).start("127.0.0.2")
        await Server(failing).start("127.0.0.3")
        for hosts, limit in ((("127.0.0.2",), 1.4), (("127.0.0.3",), 0.8), (("127.0.0.4",), 0.8), ((), 0.5)):
            uplink = forwarder(*hosts)
            start = loop.time()
            assert (await uplink.resolve(asked())).tail.rcode == 2
            assert loop.time() - start < limit
            await uplink.close()

    inside(namespace, body)


def test_truncated_answers_are_fetched_over_tcp(namespace: str) -> None:
    def large(query: dns.message.Message, tcp: bool) -> list[bytes]:
        addresses = [f"10.0.{n // 250}.{n % 250}" for n in range(300)]
        return [response(query, *addresses) if tcp else response(query, "10.0.0.0", flags=dns.flags.TC)]

    async def body() -> None:
        await Server(large).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        assert (await uplink.resolve(asked())).tail.answers == 300
        await uplink.close()

    inside(namespace, body)


def test_what_is_cut_off_even_over_tcp_is_no_answer(namespace: str) -> None:
    def cut(query: dns.message.Message, tcp: bool) -> list[bytes]:
        return [response(query, "10.0.0.0", flags=dns.flags.TC)]

    async def body() -> None:
        await Server(cut).start("127.0.0.2")
        await Server(good).start("127.0.0.3")
        both, alone = forwarder("127.0.0.2", "127.0.0.3"), forwarder("127.0.0.2")
        reply = await both.resolve(asked())
        assert (reply.tail.rcode, reply.tail.answers) == (0, 1)
        # An empty answer would be taken for the news that there are no addresses.
        assert (await alone.resolve(asked())).tail.rcode == dns.rcode.SERVFAIL
        await both.close()
        await alone.close()

    inside(namespace, body)


def test_who_waits_hears_of_the_end_whatever_becomes_of_the_others(namespace: str) -> None:
    async def body() -> None:
        told: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context["exception"]))
        await Server(silent).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")

        def bad(_reply: object) -> None:
            raise RuntimeError("no good")

        got: list[int] = []
        for name in ("one.example.com", "two.example.com"):
            uplink.ask(asked(name), bad)
            uplink.ask(asked(name), lambda reply: got.append(reply.tail.rcode))
        async with asyncio.timeout(5):
            while len(got) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        uplink.ask(asked("three.example.com"), lambda reply: got.append(reply.tail.rcode))
        async with asyncio.timeout(5):
            while len(got) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert got == [2, 2, 2]
        assert [str(error) for error in told] == ["no good"] * 2
        await uplink.close()

    inside(namespace, body)


def test_servers_without_edns_are_asked_again_without(namespace: str) -> None:
    def old(query: dns.message.Message, tcp: bool) -> list[bytes]:
        return [query.to_wire()[:2] + b"\x81\x81" + response(query)[4:]] if query.edns >= 0 else good(query, tcp)

    async def body() -> None:
        await Server(old).start("127.0.0.2")
        uplink = forwarder("127.0.0.2")
        assert (await uplink.resolve(asked())).tail.answers == 1
        await uplink.close()

    inside(namespace, body)


def test_what_is_under_way_is_bounded(namespace: str) -> None:
    async def body() -> None:
        await Server(silent).start("127.0.0.2")
        uplink = forwarder("127.0.0.2", limits=ForwardLimits(patience=0.1, total=0.3, flights=5, waiters=8))
        tasks = [asyncio.create_task(uplink.resolve(asked(f"n{n}.example.com"))) for n in range(20)]
        await asyncio.sleep(0.05)
        assert uplink.pending == 5
        assert sum(task.done() for task in tasks) == 15
        same = [asyncio.create_task(uplink.resolve(asked("n0.example.com"))) for _ in range(10)]
        await asyncio.sleep(0.02)
        assert sum(task.done() for task in same) == 7
        found = await asyncio.gather(*tasks, *same)
        assert {reply.tail.rcode for reply in found} == {2}
        assert uplink.pending == 0
        await uplink.close()

    inside(namespace, body)


def test_our_own_address_is_no_upstream() -> None:
    own = Address("169.254.20.10")
    uplink = forwarder("169.254.20.10", "1.1.1.1", "1.1.1.1", own=(own,))
    assert uplink.addresses == (Address("1.1.1.1"),)


def test_ipv6_upstreams(namespace: str) -> None:
    async def body() -> None:
        await Server(good).start("::1")
        uplink = forwarder("::1")
        assert (await uplink.resolve(asked())).tail.answers == 1
        await uplink.close()

    assert socket.has_ipv6
    inside(namespace, body)
