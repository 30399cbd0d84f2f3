"""When a connection to an upstream ends: idle, silent, or behind a network that swallows everything. Limits are made short."""

from __future__ import annotations

import asyncio
import subprocess

import dns.message
import pytest
from tests.lab.nameservers import Connections, Udp, answered, asked, at_once, inside, plain, send, truncating, until

from fairway_dns import stream
from fairway_dns.config import Address
from fairway_dns.question import Entropy, question_of
from fairway_dns.stream import Stream

pytestmark = pytest.mark.needs_root


class Watched(Connections):
    """Knows which of its connections have ended."""

    closed = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._serve(reader, writer)
        self.closed += 1


def ask(one: Stream, name: str) -> tuple[bytes, asyncio.Future[bytes | OSError]]:
    """Its id, and what comes of it."""
    question = asked(name)
    told: asyncio.Future[bytes | OSError] = asyncio.get_running_loop().create_future()
    return one.ask(question, question_of(question, question.name), True, False, told.set_result), told


def test_an_idle_connection_is_closed_and_one_in_use_is_not(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IDLE", 0.6)

    async def body() -> None:
        await Udp(truncating).start("127.0.0.2")
        server = await Watched(at_once).start("127.0.0.2", 53)
        uplink = plain("127.0.0.2")
        loop = asyncio.get_running_loop()
        begun = loop.time()
        number = 0
        while loop.time() - begun < 1.5:
            number += 1
            assert (await uplink.resolve(asked(f"n{number}.example"))).tail.answers == 1
            await asyncio.sleep(0.05)
        assert (server.opened, server.closed) == (1, 0)
        await until(lambda: server.closed == 1)
        assert (await uplink.resolve(asked("again.example"))).tail.answers == 1
        assert server.opened == 2
        await uplink.close()

    inside(namespace, body)


@pytest.mark.parametrize("speaks", [False, True])
def test_a_connection_that_says_nothing_for_long_is_given_up(
    namespace: str, monkeypatch: pytest.MonkeyPatch, speaks: bool
) -> None:
    monkeypatch.setattr(stream, "SILENT", 0.5)

    def choosy(waiting: list[bytes], writer: asyncio.StreamWriter) -> None:
        for data in list(waiting):
            if b"answered" in data:
                waiting.remove(data)
                send(writer, answered(dns.message.from_wire(data)))

    async def body() -> None:
        loop = asyncio.get_running_loop()
        server = await Watched(choosy).start("127.0.0.2", 53)
        one = Stream(Address("127.0.0.2"), loop, Entropy())
        hopeless, _never = ask(one, "silence.example")
        await until(lambda: bool(server.sizes))
        if speaks:
            assert isinstance(await ask(one, "answered.example")[1], bytes)
        await asyncio.sleep(0.6)
        one.forget(hopeless)
        # A connection that has answered others meanwhile is good; one that has not is not.
        if not speaks:
            await until(lambda: server.closed == 1)
        assert isinstance(await ask(one, "answered-later.example")[1], bytes)
        assert server.opened == (1 if speaks else 2)
        one.close()

    inside(namespace, body)


def test_a_network_that_swallows_everything_is_noticed_by_the_kernel(namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "UNACKNOWLEDGED", 400)
    monkeypatch.setattr(stream, "CONNECT", 0.5)

    async def body() -> None:
        loop = asyncio.get_running_loop()
        await Connections(at_once).start("127.0.0.2", 53)
        one = Stream(Address("127.0.0.2"), loop, Entropy())

        assert isinstance(await ask(one, "before.example")[1], bytes)
        rules = "table inet t { chain c { type filter hook output priority 0; tcp dport 53 drop; }; }"
        subprocess.run(["nft", rules], check=True)  # noqa: ASYNC221
        # Without the limit the kernel would go on trying for a quarter of an hour.
        assert isinstance(await asyncio.wait_for(ask(one, "swallowed.example")[1], 10), OSError)
        subprocess.run(["nft", "delete table inet t"], check=True)  # noqa: ASYNC221
        await asyncio.sleep(stream.FIRST_PAUSE * 2)
        assert isinstance(await ask(one, "after.example")[1], bytes)
        one.close()

    inside(namespace, body)
