"""Supervision of real worker processes inside a namespace."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import pytest

from fairway_dns.config import Address, WorkerConfig
from fairway_dns.feed import ZoneFeed
from fairway_dns.health import Patience
from fairway_dns.knock import unanswered
from fairway_dns.limits import ClientLimits
from fairway_dns.process import alive, read_pid_file
from fairway_dns.supervise import WorkerSupervisor
from fairway_kernel.netns import run_in

pytestmark = pytest.mark.needs_root
LOG = logging.getLogger("test")


def inside(namespace: str, body: Callable[[], Awaitable[None]]) -> None:
    subprocess.run(["ip", "-n", Path(namespace).name, "link", "set", "lo", "up"], check=True)

    async def run() -> None:
        await body()

    run_in(namespace, lambda: asyncio.run(run()))


QUICK = Patience(0.15, 8)
KNOCKING = Patience(0.5, 20, 0.2, 3)


def supervisor(
    path: Path,
    port: int = 53,
    host: str = "127.0.0.1",
    feed: ZoneFeed | None = None,
    number: int = 0,
    patience: Patience = QUICK,
    limits: ClientLimits | None = None,
) -> WorkerSupervisor:
    limits = limits or ClientLimits()
    config = WorkerConfig(str(path / "feed.sock"), (host,), port, state=str(path / f"zone-{number}"), limits=limits)
    return WorkerSupervisor(config.argv(sys.executable), path / "run" / f"dns-{number}.pid", LOG, feed, patience)


@asynccontextmanager
async def supervised(path: Path, **how: Any) -> AsyncIterator[tuple[WorkerSupervisor, int]]:
    """A worker that is fed, with its process; whatever becomes of the test, it ends."""
    feed = ZoneFeed(path / "feed.sock")
    await feed.start()
    feed.reset(frozenset(), 1)
    one = supervisor(path, feed=feed, **how)
    try:
        await one.start()
        assert one.pid is not None
        yield one, one.pid
    finally:
        await one.stop()
        await feed.close()


def answers(port: int = 53) -> bool:
    try:
        return dns.query.udp(dns.message.make_query("localhost", "A"), "127.0.0.1", timeout=0.5, port=port).rcode() == 0
    except (OSError, dns.exception.Timeout):
        return False


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_worker_is_started_adopted_restarted_and_stopped(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        first = supervisor(tmp_path)
        await first.start()
        pid = first.pid
        assert pid is not None
        assert os.getsid(pid) == pid
        assert answers()
        await first.detach()
        assert answers()

        second = supervisor(tmp_path)
        task = asyncio.create_task(second.run())
        await until(lambda: second.pid is not None)
        assert second.pid == pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: second.pid not in (None, pid))
        await until(answers)
        assert second.restarts == 1
        pid = second.pid
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert second.pid == pid
        assert answers()
        await second.stop()
        assert second.pid is None
        assert not answers()
        assert not (tmp_path / "run" / "dns-0.pid").exists()

    inside(namespace, body)


def test_changed_settings_replace_the_worker(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        first = supervisor(tmp_path)
        await first.start()
        pid = first.pid
        await first.detach()
        second = supervisor(tmp_path, port=5353)
        await second.start()
        assert second.pid not in (None, pid)
        assert answers(5353)
        assert first.pid is None
        assert not answers()
        await second.stop()

    inside(namespace, body)


def test_settings_that_cannot_work_leave_the_old_worker_alone(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        first = supervisor(tmp_path)
        await first.start()
        pid = first.pid
        await first.detach()
        second = supervisor(tmp_path, host="nonsense")
        await second.start()
        assert second.pid == pid
        assert answers()
        await second.stop()
        assert not answers()
        assert "nonsense" in (tmp_path / "run" / "dns-0.log").read_text()

    inside(namespace, body)


def test_a_stranger_with_our_pid_is_not_adopted(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        pid_file = tmp_path / "run" / "dns-0.pid"
        first = supervisor(tmp_path)
        await first.start()
        found = read_pid_file(pid_file)
        assert found is not None
        assert alive(found)
        await first.stop()
        assert not alive(found)
        for text in (f'{{"pid": {os.getpid()}, "started": 1, "argv": ["x"]}}', "junk", "[]", ""):
            pid_file.write_text(text)
            again = supervisor(tmp_path)
            await again.start()
            assert again.pid not in (None, os.getpid())
            await again.stop()

    inside(namespace, body)


def test_a_worker_that_lives_but_does_nothing_is_replaced(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        feed = ZoneFeed(tmp_path / "feed.sock")
        await feed.start()
        feed.reset(frozenset(), 1)
        one = supervisor(tmp_path, feed=feed)
        await one.start()
        pid = one.pid
        assert pid is not None
        assert await feed.wait_acked(1, 5)
        # A pause of the agent itself says nothing about the worker.
        time.sleep(1.5)  # noqa: ASYNC251
        await asyncio.sleep(0.5)
        assert (one.pid, one.hung) == (pid, 0)
        os.kill(pid, signal.SIGSTOP)
        await until(lambda: one.pid not in (None, pid))
        await until(lambda: one.hung == 1 and answers())
        await until(lambda: not Path(f"/proc/{pid}").exists())
        await one.detach()
        await feed.close()

        # One that hung before the agent started is found as well.
        pid = one.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        await feed.start()
        second = supervisor(tmp_path, feed=feed)
        await second.start()
        assert second.pid == pid
        await until(lambda: second.hung == 1 and second.pid not in (None, pid) and answers())
        await second.stop()
        await feed.close()

    inside(namespace, body)


def test_workers_are_not_killed_one_after_another_if_none_can_be_heard(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        one = supervisor(tmp_path, feed=ZoneFeed(tmp_path / "nobody.sock"))
        await one.start()
        await asyncio.sleep(3.0)
        # Given up after 1.2 s; its successor has 2.4 s, the next 4.8 s.
        assert one.hung in (1, 2)
        assert answers()
        await one.stop()

    inside(namespace, body)


def workers_of(path: Path) -> list[str]:
    """The command lines of processes that work for this test."""
    return [line for entry in Path("/proc").glob("[0-9]*/cmdline") if str(path / "zone-") in (line := read(entry))]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def test_stopping_while_a_successor_starts_leaves_nobody(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        feed = ZoneFeed(tmp_path / "feed.sock")
        await feed.start()
        one = supervisor(tmp_path, feed=feed)
        await one.start()
        record = tmp_path / "run" / "dns-0.pid"
        first = read_pid_file(record)
        assert first is not None and len(workers_of(tmp_path)) == 1
        os.kill(first.pid, signal.SIGSTOP)
        await until(lambda: read_pid_file(record) != first)
        await one.stop()
        await feed.close()

    inside(namespace, body)
    assert workers_of(tmp_path) == []


DEAFEN = """
import asyncio, gc, signal

def deafen(*_):
    from fairway_dns.direct import unwatch
    from fairway_dns.udp import UdpServer
    for one in gc.get_objects():
        if isinstance(one, UdpServer):
            unwatch(asyncio.get_running_loop(), one._socket)

signal.signal(signal.SIGUSR2, deafen)
"""


def test_a_worker_that_leaves_queries_lying_is_replaced_and_its_neighbour_is_not(
    namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEAFEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def body() -> None:
        feed = ZoneFeed(tmp_path / "feed.sock")
        await feed.start()
        feed.reset(frozenset(), 1)
        # The address of the node has used up what it may ask; knocks are beyond that.
        both = [supervisor(tmp_path, feed=feed, number=n, patience=KNOCKING, limits=ClientLimits(1)) for n in (0, 1)]
        for one in both:
            await one.start()
        pids = [one.pid for one in both]
        await asyncio.sleep(3.0)
        assert [one.pid for one in both] == pids
        counted = [info.counters for info in feed.workers()]
        for name in ("read", "handled", "tcp_handled", "tcp_knocks"):
            assert all(counters[f"{name}:127.0.0.1"] for counters in counted)
        assert not any(name.startswith(("queries:", "answers:", "limited:")) for counters in counted for name in counters)
        assert pids[0] is not None
        os.kill(pids[0], signal.SIGUSR2)
        async with asyncio.timeout(20):
            while both[0].pid in (None, pids[0]) or both[0].hung != 1:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (both[1].pid, both[1].hung) == (pids[1], 0)
        for one in both:
            await one.stop()
        await feed.close()

    inside(namespace, body)


async def relieved(one: WorkerSupervisor, pid: int) -> None:
    """Wait until a successor of `pid` works, alone."""
    async with asyncio.timeout(20):
        while one.pid in (None, pid) or one.hung != 1 or Path(f"/proc/{pid}").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_a_worker_that_reads_and_cannot_answer_is_replaced(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with supervised(tmp_path, patience=KNOCKING) as (one, pid):
            await asyncio.sleep(2.0)
            assert (one.pid, one.hung) == (pid, 0)
            rules = "table inet mute { chain c { type filter hook output priority 0; udp sport 53 drop; }; }"
            subprocess.run(["nft", rules], check=True)  # noqa: ASYNC221
            await relieved(one, pid)
            subprocess.run(["nft", "delete table inet mute"], check=True)  # noqa: ASYNC221
            assert answers()

    inside(namespace, body)


def test_a_worker_that_takes_no_connections_is_replaced(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with supervised(tmp_path, patience=KNOCKING) as (one, pid):
            await asyncio.sleep(2.5)
            assert (one.pid, one.hung) == (pid, 0)
            # From now on it can open nothing, so that connections are left in the listener's queue; UDP goes on as it was.
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))
            await asyncio.to_thread(lambda: [answers() for _ in range(3)])
            await relieved(one, pid)
            reply = await asyncio.to_thread(dns.query.tcp, dns.message.make_query("localhost", "A"), "127.0.0.1", 2)
            assert reply.rcode() == 0

    inside(namespace, body)


def test_a_worker_whose_connections_are_all_taken_is_not_replaced(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        async with supervised(tmp_path, patience=KNOCKING, limits=ClientLimits(connections=1)) as (one, pid):
            await asyncio.sleep(2.5)
            query = dns.message.make_query("localhost", "A").to_wire()
            with socket.create_connection(("127.0.0.1", 53)) as taken:
                for _ in range(8):
                    # Just enough to keep it; knocks are refused meanwhile.
                    taken.sendall(len(query).to_bytes(2, "big") + query)
                    await asyncio.sleep(1.0)
                    assert await unanswered(Address("127.0.0.1"), "cluster.local", doors=2, wait=0.3) == (0, 2)
                assert (one.pid, one.hung) == (pid, 0)

    inside(namespace, body)


def test_workers_are_not_killed_one_after_another_if_no_query_can_reach_them(namespace: str, tmp_path: Path) -> None:
    async def body() -> None:
        rules = "table inet t { chain c { type filter hook input priority 0; udp dport 53 drop; }; }"
        subprocess.run(["nft", rules], check=True)  # noqa: ASYNC221
        async with supervised(tmp_path, patience=Patience(0.5, 20, 0.05, 1)) as (one, _):
            begun = asyncio.get_running_loop().time()
            async with asyncio.timeout(30):
                while one.hung < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            # Given up after one round of about a second; its successor has two.
            assert asyncio.get_running_loop().time() - begun > 3.0

    inside(namespace, body)


def test_who_is_not_there_is_not_asked_for(namespace: str) -> None:
    async def body() -> None:
        assert await unanswered(Address("192.0.2.1"), "cluster.local", wait=0.05) == (0, 0)
        assert await unanswered(Address("127.0.0.1"), "cluster.local", doors=3, wait=0.05) == (3, 3)
        assert await unanswered(Address("::1"), "cluster.local", doors=3, wait=0.05) == (3, 3)

    inside(namespace, body)
