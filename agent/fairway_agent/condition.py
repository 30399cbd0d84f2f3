"""The node's NetworkUnavailable condition: the scheduler keeps pods away from a node whose network is not there.

Source: Kubernetes documentation, "Node conditions" and taint node.kubernetes.io/network-unavailable. When the agent stops, the
condition stays as it is, like the rules it speaks of.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from fairway_core.clock import Clock
from fairway_store.kubernetes.events import Condition
from fairway_store.kubernetes.faults import ApiFault, Denied
from fairway_store.kubernetes.timing import Backoff, Timing
from fairway_store.kubernetes.writer import ClusterWriter

UP, DOWN, WAITING = "FairwayIsUp", "FairwayIsDown", "FairwayIsWaiting"
GRACE_SECONDS = 30.0
"""How long the node may be unwell before pods are kept away: a repair or a restart takes less."""
TICK_SECONDS = 1.0
PATIENCE_SECONDS = (5.0, 300.0)
"""Somebody else who writes the condition is answered after the first wait, which doubles up to the second."""
CALM_SECONDS = 600.0
QUARREL = 3
"""So many answers make a quarrel, which is reported."""

Seen = Mapping[str, Any] | None
Look = Callable[[], Awaitable[tuple[bool, Seen]]]
"""Whether the node is known, and its condition as it was last seen."""
Report = Callable[[str, str], None]


class Judge:
    """From how the node is to what its condition should say. Pure but for what it remembers."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self._grace = grace
        self._unwell_since: float | None = None

    def judge(self, reasons: Sequence[str], now: float) -> Condition | None:
        """`reasons`: why the node is not ready; `now`: monotonic. None while it is unwell, but not for long enough."""
        if not reasons:
            self._unwell_since = None
            return Condition(False, UP, "the node's rules and names are live")
        if self._unwell_since is None:
            self._unwell_since = now
        if now - self._unwell_since < self._grace:
            return None
        return Condition(True, DOWN, "; ".join(reasons))


class StartJudge(Judge):
    """Before the agent is at work there is no good news: only what the start waits for, and that at once."""

    def judge(self, reasons: Sequence[str], now: float) -> Condition | None:
        """See `Judge.judge`. None if nothing is waited for."""
        return Condition(True, WAITING, "; ".join(reasons)) if reasons else None


class Dispute:
    """When to write again what somebody else keeps changing."""

    def __init__(self) -> None:
        self._answers = 0
        self._next = self._last = float("-inf")

    def may_answer(self, now: float) -> bool:
        """Whether the time has come."""
        if now - self._last > CALM_SECONDS:
            self._answers = 0
        return now >= self._next

    def answered(self, now: float) -> None:
        """We have written."""
        first, longest = PATIENCE_SECONDS
        self._last = now
        self._next = now + min(first * (1 << min(self._answers, 16)), longest)
        self._answers += 1

    @property
    def quarrel(self) -> bool:
        return self._answers > QUARREL


def agrees(wanted: Condition, seen: Seen, claimed: bool) -> bool:
    """Whether nothing has to be written. Once `claimed`, another's reason for the same status is as good as ours."""
    if seen is None or seen.get("status") != wanted.status:
        return False
    return claimed or seen.get("reason") == wanted.reason


class ConditionKeeper:
    """Keeps one node's condition true. Writes only what changes: a heartbeat would wake everybody who watches Nodes."""

    def __init__(
        self,
        writer: ClusterWriter,
        node: str,
        reasons: Callable[[], Sequence[str]],
        look: Look,
        report: Report,
        clock: Clock,
        log: logging.Logger,
        timing: Timing | None = None,
        judge: Judge | None = None,
    ) -> None:
        self._writer = writer
        self._node = node
        self._reasons = reasons
        self._look = look
        self._report = report
        self._clock = clock
        self._log = log
        self._timing = timing or Timing()
        self._backoff = Backoff(self._timing, random.random, clock.monotonic)
        self._judge = judge or Judge()
        self._dispute = Dispute()
        self._claimed = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause = await self.round()
            await asyncio.sleep(pause)

    async def round(self) -> float:
        """Look, and write if need be; seconds until the next look."""
        wanted = self._judge.judge(self._reasons(), self._clock.monotonic())
        known, seen = await self._look()
        if wanted is None or not known:
            return TICK_SECONDS
        if agrees(wanted, seen, self._claimed):
            self._claimed = True
            return TICK_SECONDS
        if not self._dispute.may_answer(self._clock.monotonic()):
            return TICK_SECONDS
        return await self._write(wanted, seen)

    async def _write(self, wanted: Condition, seen: Seen) -> float:
        now = self._clock.wall()
        same = seen is not None and seen.get("status") == wanted.status
        condition = Condition(wanted.unavailable, wanted.reason, wanted.message, 0.0 if same else now)
        try:
            await self._writer.set_condition(self._node, condition, now)
        except Denied as fault:
            self._report("NodeStatus", str(fault))
            return self._timing.probe
        except ApiFault as fault:
            self._log.debug("the node's condition has to wait: %s", fault)
            return self._backoff.delay(fault.retry_after)
        self._dispute.answered(self._clock.monotonic())
        self._claimed = True
        other = f" (last: {seen.get('status')}, {seen.get('reason')})" if seen else ""
        quarrel = f"somebody else keeps writing NetworkUnavailable of this node{other}" if self._dispute.quarrel else ""
        self._report("NodeStatus", quarrel)
        self._log.info("condition written", extra={"unavailable": wanted.unavailable, "reason": wanted.reason})
        return TICK_SECONDS
