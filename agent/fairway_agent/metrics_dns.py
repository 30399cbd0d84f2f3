"""Metrics of the DNS workers, at scrape time: what they last told, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from fairway_dns.feed import ZoneFeed
from fairway_dns.supervise import WorkerSupervisor


class WorkerCollector(Collector):
    """What the DNS workers count, as they last told. A restarted worker counts from zero, as Prometheus counters may."""

    def __init__(self, feed: ZoneFeed) -> None:
        self._feed = feed

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("fairway_dns_events", "Counts kept by each DNS worker", labels=["worker", "event"])
        for worker in self._feed.workers():
            for event, count in sorted(worker.counters.items()):
                family.add_metric([str(worker.pid), event], count)
        return [family]


class SupervisorCollector(Collector):
    """Workers that had to be started anew, by the reason."""

    def __init__(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        self._supervisors = supervisors

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("fairway_dns_worker_restarts", "DNS workers started anew, by the reason", labels=["reason"])
        family.add_metric(["ended"], sum(one.restarts for one in self._supervisors))
        family.add_metric(["hung"], sum(one.hung for one in self._supervisors))
        return [family]
