"""The NetworkUnavailable condition: true after a grace, false at once, written when it differs, without a quarrel."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from fairway_agent.condition import ConditionKeeper, Judge, StartJudge
from fairway_core.clock import FakeClock
from fairway_store.kubernetes.events import Condition, Incident
from fairway_store.kubernetes.faults import ApiFault, Denied

LOG = logging.getLogger("test")


class Node:
    """A node, its API server and its keeper, on a fake clock."""

    def __init__(self, judge: Judge | None = None) -> None:
        self.clock = FakeClock()
        self.reasons: Sequence[str] = ()
        self.known = True
        self.seen: dict[str, Any] | None = None
        self.written: list[Condition] = []
        self.faults: list[ApiFault] = []
        self.reports: list[str] = []
        look, report = self._look, lambda _what, fault: self.reports.append(fault)
        self.keeper = ConditionKeeper(
            self, "n1", lambda: self.reasons, look, report, self.clock, LOG, judge=judge or Judge(grace=30)
        )

    async def _look(self) -> tuple[bool, dict[str, Any] | None]:
        return self.known, self.seen

    async def set_condition(self, node: str, condition: Condition, now: float) -> None:
        if self.faults:
            raise self.faults.pop(0)
        self.written.append(condition)
        self.seen = {"type": "NetworkUnavailable", "status": condition.status, "reason": condition.reason}

    async def create_event(self, incident: Incident, node: str, at: float) -> None:
        raise AssertionError("not asked for here")

    async def count_event(self, incident: Incident, node: str, count: int, at: float) -> None:
        raise AssertionError("not asked for here")

    async def close(self) -> None:
        return

    async def for_seconds(self, seconds: float) -> list[Condition]:
        """What is written in that time."""
        before, end = len(self.written), self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            self.clock.advance(await self.keeper.round())
        return self.written[before:]


async def test_a_ready_node_says_so_once() -> None:
    node = Node()
    (said,) = await node.for_seconds(100)
    assert (said.status, said.reason) == ("False", "FairwayIsUp") and said.since


async def test_a_short_illness_is_no_news_a_long_one_is() -> None:
    node = Node()
    await node.for_seconds(5)
    node.reasons = ["rules are not in place"]
    assert await node.for_seconds(20) == []
    node.reasons = ()
    await node.for_seconds(1)
    node.reasons = ["rules are not in place", "no worker"]
    assert await node.for_seconds(29) == []
    (said,) = await node.for_seconds(30)
    assert (said.status, said.reason, said.message) == ("True", "FairwayIsDown", "rules are not in place; no worker")
    node.reasons = ["another reason"]
    assert await node.for_seconds(60) == [], "only changes of the status are written"
    node.reasons = ()
    (said,) = await node.for_seconds(10)
    assert said.status == "False"


async def test_a_start_that_waits_is_told_at_once_and_one_that_does_not_is_no_news() -> None:
    node = Node(StartJudge())
    assert await node.for_seconds(100) == [], "not waiting is not working"
    node.reasons = ["waiting for pod ranges"]
    (said,) = await node.for_seconds(100)
    assert (said.status, said.reason, said.message) == ("True", "FairwayIsWaiting", "waiting for pod ranges")
    node.known, node.seen = False, None
    assert await node.for_seconds(100) == [], "without a Node object there is nothing to write to"


async def test_the_transition_time_changes_with_the_status_only() -> None:
    node = Node()
    node.seen = {"status": "False", "reason": "FlannelIsUp"}
    (said,) = await node.for_seconds(10)
    assert said.reason == "FairwayIsUp" and said.since == 0
    node.seen = {"status": "True", "reason": "NoRouteCreated"}
    (said,) = await node.for_seconds(10)
    assert said.since > 0


async def test_a_cloud_that_clears_the_condition_itself_is_left_alone() -> None:
    node = Node()
    await node.for_seconds(10)
    node.seen = {"status": "False", "reason": "RouteCreated"}
    assert await node.for_seconds(1000) == []


async def test_somebody_who_insists_is_answered_ever_more_rarely_and_reported() -> None:
    node = Node()
    written = 0
    for _ in range(3600):
        node.seen = {"status": "True", "reason": "NoRouteCreated"}
        written += len(await node.for_seconds(1))
    assert 5 < written < 30
    assert any("somebody else keeps writing" in text and "NoRouteCreated" in text for text in node.reports)


async def test_a_missing_permission_is_reported_and_not_tried_again_soon() -> None:
    node = Node()
    node.faults = [Denied("missing permission: patch nodes/status")]
    assert await node.keeper.round() >= 150
    assert node.reports == ["missing permission: patch nodes/status"]
    assert len(await node.for_seconds(10)) == 1 and node.reports[-1] == ""


async def test_a_server_that_is_away_is_asked_again_with_growing_waits() -> None:
    node = Node()
    node.faults = [ApiFault("503") for _ in range(4)]
    started = node.clock.monotonic()
    while not node.written:
        node.clock.advance(await node.keeper.round())
    assert node.clock.monotonic() - started > 1


async def test_a_node_that_is_not_registered_yet_is_waited_for() -> None:
    node = Node()
    node.known = False
    assert await node.for_seconds(10) == []
    node.known = True
    assert len(await node.for_seconds(10)) == 1
