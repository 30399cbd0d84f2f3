"""Events: told once, counted when they repeat, limited, patient with a server that refuses; never in anybody's way."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_agent.events import BURST, LIMIT, Book, EventSender
from fairway_core.clock import FakeClock
from fairway_core.keys import Key
from fairway_store.kubernetes.events import Condition, Incident
from fairway_store.kubernetes.faults import ApiFault, Denied, Exists, NotInstalled, Unwelcome

LOG = logging.getLogger("test")


def incident(name: str = "web-1", shared: bool = False) -> Incident:
    return Incident(Key("Pod", "shop", name), "NoAddress", "no address is left", "uid", shared)


class Server:
    """A `ClusterWriter` that keeps what it is told, after the faults that were put into it."""

    def __init__(self) -> None:
        self.faults: list[ApiFault] = []
        self.said: list[tuple[str, str, int]] = []
        self.counts: dict[Incident, int] = {}

    def _refuse(self) -> None:
        if self.faults:
            raise self.faults.pop(0)

    async def set_condition(self, node: str, condition: Condition, now: float) -> None:
        raise AssertionError("not asked for here")

    async def create_event(self, incident: Incident, node: str, at: float) -> None:
        self._refuse()
        if incident in self.counts:
            raise Exists("there")
        self.counts[incident] = 1
        self.said.append(("create", incident.about.name, 1))

    async def count_event(self, incident: Incident, node: str, count: int, at: float) -> None:
        self._refuse()
        if incident not in self.counts:
            raise NotInstalled("gone")
        self.counts[incident] = count
        self.said.append(("count", incident.about.name, count))

    async def close(self) -> None:
        return


class Desk:
    """A sender on a fake clock."""

    def __init__(self, chance: float = 1.0) -> None:
        self.clock = FakeClock()
        self.server = Server()
        self.reports: list[str] = []
        self.sender = EventSender(self.server, "n1", self._report, self.clock, LOG, chance=lambda: chance)

    def _report(self, what: str, fault: str) -> None:
        self.reports.append(fault)

    async def after(self, seconds: float, *incidents: Incident) -> float:
        for item in incidents:
            self.sender.tell(item)
        self.clock.advance(seconds)
        return await self.sender.round()


async def test_a_first_incident_is_told_and_repetitions_are_counted_ever_more_rarely() -> None:
    desk = Desk()
    await desk.after(1, incident())
    for _ in range(600):
        await desk.after(1, incident())
    assert desk.server.said == [
        ("create", "web-1", 1), ("count", "web-1", 61), ("count", "web-1", 181), ("count", "web-1", 421)
    ]  # fmt: skip


async def test_what_all_nodes_see_is_told_once_by_whoever_is_first() -> None:
    desk = Desk()
    other = incident("other", shared=True)
    desk.server.counts[other] = 1
    for _ in range(200):
        await desk.after(1, other, incident("mine", shared=True))
    assert desk.server.said == [("create", "mine", 1)]
    assert desk.reports and not any(desk.reports)


async def test_what_all_nodes_see_is_not_told_by_all_in_the_same_second() -> None:
    told: list[int] = []
    for node in range(20):
        desk = Desk(chance=node / 20)
        for second in range(40):
            await desk.after(1, *([incident(shared=True)] if second == 0 else []))
            if desk.server.said:
                told.append(second)
                break
    assert len(told) == 20 and max(told.count(second) for second in told) <= 2
    assert max(told) <= 30
    # What only this node sees is told at once.
    desk = Desk(chance=0.9)
    await desk.after(1, incident())
    assert desk.server.said


async def test_an_event_from_before_a_restart_is_counted_on() -> None:
    desk = Desk()
    desk.server.counts[incident()] = 1
    await desk.after(1, incident())
    await desk.after(1, incident())
    await desk.after(60)
    assert desk.server.said == [("count", "web-1", 3)]


async def test_an_event_that_has_expired_is_made_again() -> None:
    desk = Desk()
    await desk.after(1, incident())
    desk.server.counts.clear()
    await desk.after(61, incident())
    assert desk.server.said == [("create", "web-1", 1), ("create", "web-1", 1)]


async def test_a_flood_is_limited_and_bounded() -> None:
    desk = Desk()
    await desk.after(0, *(incident(f"p{number}") for number in range(5000)))
    assert len(desk.server.said) == BURST
    assert desk.server.said[0] == ("create", f"p{5000 - LIMIT}", 1), "the latest are kept"
    await desk.after(100)
    assert len(desk.server.said) == BURST + 10
    for _ in range(100):
        await desk.after(100)
    assert len(desk.server.said) == LIMIT


async def test_a_missing_permission_is_reported_and_not_tried_again_soon() -> None:
    desk = Desk()
    desk.server.faults = [Denied("missing permission: create events")]
    assert await desk.after(1, incident()) >= 150
    assert desk.reports == ["missing permission: create events"]
    await desk.after(300)
    assert desk.reports[-1] == "" and desk.server.said == [("create", "web-1", 1)]


async def test_waits_grow_while_the_server_is_away() -> None:
    desk = Desk()
    desk.server.faults = [ApiFault("503"), ApiFault("503"), ApiFault("429", retry_after=40)]
    waits = [await desk.after(10, incident()), await desk.after(10), await desk.after(10)]
    assert waits[0] < waits[1] and waits[2] > 40
    await desk.after(60)
    assert desk.server.said == [("create", "web-1", 1)] and not any(desk.reports)


@pytest.mark.parametrize("fault", [Unwelcome("its namespace is going"), Unwelcome("invalid")])
async def test_what_is_not_wanted_is_not_offered_again(fault: ApiFault) -> None:
    desk = Desk()
    desk.server.faults = [fault]
    await desk.after(1, incident())
    await desk.after(100)
    assert desk.server.said == []
    await desk.after(1, incident("next"))
    assert desk.server.said == [("create", "next", 1)]


STEPS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 200), st.booleans()), max_size=60)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_the_book_never_tells_more_than_its_rate_nor_forgets_what_is_new(steps: list[tuple[int, int, bool]]) -> None:
    clock = FakeClock()
    book, started, told = Book(clock, lambda: 0.5), clock.monotonic(), 0
    noted, once = set[Incident](), set[Incident]()
    for number, wait, shared in steps:
        item = incident(f"p{number}", shared)
        assert book.note(item)
        if not (shared and item in once):
            noted.add(item)
        once.add(item)
        clock.advance(wait)
        told += drain(book, noted.discard)
        assert told <= BURST + (clock.monotonic() - started) / 10
    for _ in range(30):
        clock.advance(100)
        drain(book, noted.discard)
    assert not noted


def drain(book: Book, seen: Callable[[Incident], None]) -> int:
    count = 0
    while (series := book.next()) is not None:
        seen(series.incident)
        book.told(series)
        count += 1
    return count
