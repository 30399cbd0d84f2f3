"""The worker's loop: what is watched is handled first, and everything asyncio does still works on it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import pytest

from fairway_dns.direct import DirectLoop, unwatch, watch

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        made = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for one in made:
            one.setblocking(False)
            stack.enter_context(one)
        yield made


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(10):
            await body()

    with asyncio.Runner(loop_factory=DirectLoop) as runner:
        runner.run(whole())


def test_watched_sockets_come_before_what_is_registered(pair: Pair) -> None:
    ours, other = pair

    async def body() -> None:
        loop = asyncio.get_running_loop()
        order: list[str] = []
        first, second = socket.socketpair()
        with first, second:
            loop.add_reader(first, lambda: order.append("registered") if first.recv(1) else None)
            watch(loop, ours, lambda: order.append(ours.recv(9).decode()))
            loop.call_soon(order.append, "soon")
            second.send(b"x")
            other.send(b"watched")
            while len(order) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert sorted(order) == ["registered", "soon", "watched"]
            assert order.index("watched") < order.index("registered")
            assert loop.remove_reader(first)
            unwatch(loop, ours)
            unwatch(loop, ours)
            other.send(b"late")
            await asyncio.sleep(0.05)
            assert order[3:] == []

    run(body)


def test_a_callback_may_wake_others_end_itself_and_fail(pair: Pair) -> None:
    ours, other = pair

    async def body() -> None:
        loop = asyncio.get_running_loop()
        told: list[object] = []
        loop.set_exception_handler(lambda _loop, context: told.append(context["exception"]))
        future: asyncio.Future[bytes] = loop.create_future()

        def call() -> None:
            data = ours.recv(9)
            if data == b"bad":
                raise ValueError("no good")
            unwatch(loop, ours)
            loop.call_later(0.01, future.set_result, data)

        watch(loop, ours, call)
        other.send(b"bad")
        other.send(b"good")
        assert await future == b"good"
        assert [str(error) for error in told] == ["no good"]

    run(body)


def test_streams_timers_threads_and_processes_work_on_it() -> None:
    async def body() -> None:
        async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.read())
            writer.close()

        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        # More than fits into the buffers, so that the transport waits until it can write.
        sent = bytes(4 << 20)
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent
        writer.close()
        server.close()
        assert await asyncio.to_thread(lambda: 7) == 7
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.Event().wait()

    run(body)


def test_other_loops_watch_in_their_way(pair: Pair) -> None:
    ours, other = pair

    async def body() -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        watch(loop, ours, lambda: future.set_result(ours.recv(9)))
        other.send(b"seen")
        assert await asyncio.wait_for(future, 5) == b"seen"
        unwatch(loop, ours)

    asyncio.run(body())
