"""What a node tells its cluster: its condition and events. A node without a cluster tells nobody; its status says the same."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from fairway_agent.anomalies import PodAnomalies
from fairway_agent.condition import ConditionKeeper, Judge, Seen, StartJudge
from fairway_agent.events import EventSender
from fairway_agent.gaps import Gaps
from fairway_agent.metrics import Metrics
from fairway_agent.problems import Problems
from fairway_agent.reconcile import Reconciler
from fairway_agent.status import reasons
from fairway_agent.tidings import DriftAlarm, ProblemTeller, add_failure
from fairway_core.clock import Clock
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_store.api import Store
from fairway_store.kubernetes.events import Incident, condition_of
from fairway_store.kubernetes.writer import ClusterWriter

GAP_REASON = "NotEnforced"
AGAIN_SECONDS = 30.0


class Reports:
    """Gathers what there is to tell from all parts of the agent. Nothing here ever makes anybody wait."""

    def __init__(self, node: str, problems: Problems, metrics: Metrics, clock: Clock, log: logging.Logger) -> None:
        self._node = node
        self._problems = problems
        self._metrics = metrics
        self._clock = clock
        self._log = log
        self._world: Callable[[], World] = World
        self._writer: ClusterWriter | None = None
        self._sender: EventSender | None = None
        self._tell: Callable[[Incident], None] | None = None
        self.gaps = Gaps(self._gap)

    def follow_pods(self, reconciler: Reconciler, pod_cidrs: Sequence[str]) -> None:
        """Watch for oddities of pods from the first world on."""
        self._world = lambda: reconciler.world
        reconciler.subscribe(PodAnomalies(self._node, pod_cidrs, self._problems))

    def add_failed(self, body: bytes, answer: bytes) -> None:
        """A CNI call was answered with an error."""
        incident = add_failure(body, answer, self._world()) if self._tell else None
        if incident is not None and self._tell is not None:
            self._tell(incident)

    def _gap(self, key: Key, uid: str, text: str) -> None:
        if self._tell is not None:
            self._tell(Incident(key, GAP_REASON, text, uid, shared=True))

    def use(self, writer: ClusterWriter) -> None:
        """Tell the cluster, from now on; what is told before `run` waits for it."""
        self._writer = writer
        self._sender = EventSender(writer, self._node, self._problem, self._clock, self._log)
        self._tell = self._sender.tell

    async def while_waiting(self, store: Store, problem: str) -> None:
        """Until cancelled: the condition says what a start waits for, which is the open problem `problem`, if it is."""
        if self._writer is not None:
            keeper = self._keeper(store, self._writer, lambda: list(filter(None, [self._problems.text(problem)])), StartJudge())
            await self._guarded(keeper.run)

    async def close(self) -> None:
        """End what is told. Idempotent."""
        if self._writer is not None:
            await self._writer.close()

    def _keeper(self, store: Store, writer: ClusterWriter, why: Callable[[], list[str]], judge: Judge) -> ConditionKeeper:
        async def look() -> tuple[bool, Seen]:
            entry = await store.get(Key("Node", "", self._node))
            return entry is not None, condition_of(entry.document if entry else None)

        return ConditionKeeper(writer, self._node, why, look, self._problem, self._clock, self._log, judge=judge)

    async def run(self, store: Store, reconciler: Reconciler) -> None:
        """Until cancelled; then the writer is closed. Without a writer only the node's own status learns of things."""
        alarm = DriftAlarm(self._metrics.repair_counts, self._problems, self._clock)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._guarded(alarm.run))
            if self._writer is not None and self._sender is not None:
                group.create_task(self._write(store, reconciler, self._writer, self._sender))

    async def _write(self, store: Store, reconciler: Reconciler, writer: ClusterWriter, sender: EventSender) -> None:
        teller = ProblemTeller(self._problems, self._node, lambda: reconciler.world, sender.tell, self._clock)
        keeper = self._keeper(store, writer, lambda: reasons(reconciler, self._problems), Judge())
        try:
            async with asyncio.TaskGroup() as group:
                for part in (sender, teller, keeper):
                    group.create_task(self._guarded(part.run))
        finally:
            await writer.close()

    async def _guarded(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run for ever: what nobody foresaw about telling must not end the agent that has something to tell."""
        while True:
            try:
                await run()
            except Exception:
                self._log.exception("telling the cluster failed")
                await asyncio.sleep(AGAIN_SECONDS)

    def _problem(self, what: str, fault: str) -> None:
        if fault:
            self._problems.report(f"store:{what}", fault, blocking=False)
        else:
            self._problems.clear(f"store:{what}")
