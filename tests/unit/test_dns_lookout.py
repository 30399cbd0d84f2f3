"""Waiting awake for events that are near: it spares a sleep, ends in time, and is given up where it does not pay."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from fairway_core.clock import SystemClock
from fairway_dns.config import Address
from fairway_dns.direct import RETRY, DirectLoop, DirectSelector, Lookout
from fairway_dns.forward import Forwarder
from fairway_dns.question import Asked

EVENT = [(7, select.EPOLLIN)]


class ScriptedEpoll:
    """Finds something when it is asked for the `at`-th time; never sleeps, but remembers for how long it should have."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.at = 0

    def poll(self, seconds: float, _most: int) -> list[tuple[int, int]]:
        self.asked.append(seconds)
        return EVENT if len(self.asked) == self.at else []

    def close(self) -> None:
        pass

    @property
    def sleeps(self) -> list[float]:
        return [seconds for seconds in self.asked if seconds]

    def restart(self, at: int) -> None:
        self.asked, self.at = [], at


@pytest.fixture
def epoll(monkeypatch: pytest.MonkeyPatch) -> ScriptedEpoll:
    made = ScriptedEpoll()
    monkeypatch.setattr(select, "epoll", lambda: made)
    return made


@pytest.fixture
def selector(epoll: ScriptedEpoll) -> Iterator[DirectSelector]:
    made = DirectSelector()
    yield made
    made.close()


def waits(selector: DirectSelector, lookout: Lookout, epoll: ScriptedEpoll, at: int, timeout: float | None = 1.0) -> list[float]:
    """The sleeps of one wait that something is expected in."""
    epoll.restart(at)
    lookout.expect()
    selector.select(timeout)
    return epoll.sleeps


def test_what_comes_soon_is_not_slept_for(selector: DirectSelector, epoll: ScriptedEpoll) -> None:
    lookout = Lookout(selector, 5.0)
    for timeout in (1.0, None):
        assert waits(selector, lookout, epoll, at=50, timeout=timeout) == []
        assert len(epoll.asked) == 50
    epoll.restart(at=1)
    selector.select(1.0)
    assert epoll.sleeps == [1.0], "it holds for one wait"


def test_it_ends_in_time_and_before_timers(selector: DirectSelector, epoll: ScriptedEpoll) -> None:
    assert waits(selector, Lookout(selector, 0.001), epoll, at=0, timeout=None) == [-1]
    assert waits(selector, Lookout(selector, 3600.0), epoll, at=0, timeout=0.001) == [0.001]
    lookout = Lookout(selector, 3600.0)
    assert waits(selector, lookout, epoll, at=0, timeout=0) == []
    assert epoll.asked == [0], "who has work to do does not wait at all"
    epoll.restart(at=20)
    selector.select(1.0)
    assert epoll.sleeps == [], "what was expected is looked out for when the work is done"


def test_what_does_not_pay_is_given_up_and_tried_again(selector: DirectSelector, epoll: ScriptedEpoll) -> None:
    lookout = Lookout(selector, 1e-5)
    looks = 0
    for _ in range(10 * RETRY):
        waits(selector, lookout, epoll, at=0)
        looks += len(epoll.asked) > 1
    assert 10 <= looks <= 20
    # An event at the first look each time: two of three are enough to stay awake.
    for _ in range(3 * RETRY):
        waits(selector, lookout, epoll, at=1)
    assert waits(selector, lookout, epoll, at=1) == []


def test_a_forwarded_question_and_its_answer_are_waited_for_awake() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, DirectLoop)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            forwarder = Forwarder([Address("127.0.0.1", server.getsockname()[1])], (), SystemClock())
            done: list[object] = []
            order: list[bool] = []
            forwarder.ask(Asked(b"\3www\7example\0", 1), lambda response: done.append(response))
            order.append(loop.direct.lookout is not None)
            data, sender = server.recvfrom(512)
            server.sendto(data[:2] + b"\x81\x83" + data[4:], sender)
            await _until(lambda: bool(done), lambda: order.append(loop.direct.lookout is not None))
            assert order == [True, True]
            await forwarder.close()

    with asyncio.Runner(loop_factory=DirectLoop) as runner:
        runner.run(body())


async def _until(condition: Callable[[], bool], then: Callable[[], None]) -> None:
    """`then` is called in the pass of the loop in which the condition holds for the first time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)
    then()
