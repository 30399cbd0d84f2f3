"""Metrics of the DNS workers, at scrape time: what they last told, and what became of them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fairway_dns.feed import ZoneFeed
from fairway_dns.reports import Stats
from fairway_dns.supervise import WorkerSupervisor

ANSWER_LABELS = ("zone", "type", "rcode", "transport", "path")
ANSWERS, LIMITED = "answers:", "limited:"
"""Counts that have metrics of their own."""


class WorkerCollector(Collector):
    """What the DNS workers measure, as they last told. A restarted worker counts from zero, as Prometheus counters may."""

    def __init__(self, feed: ZoneFeed) -> None:
        self._feed = feed

    def collect(self) -> list[Metric]:
        workers = [(str(worker.pid), worker.stats) for worker in self._feed.workers()]
        counted = [(pid, name, count) for pid, stats in workers for name, count in sorted(stats.counters.items())]
        return [
            _answers(_of(counted, ANSWERS)),
            _limited(_of(counted, LIMITED)),
            _events([item for item in counted if not item[1].startswith((ANSWERS, LIMITED))]),
            _durations("fairway_dns_answer_seconds", "Time to answer, by the way the answer took", "path", workers),
            _durations("fairway_dns_upstream_seconds", "Time an upstream took to give a usable answer", "upstream", workers),
            _sizes(workers),
        ]


Counted = tuple[str, str, int]
"""Worker, name or label, count."""


def _of(counted: list[Counted], prefix: str) -> list[Counted]:
    return [(pid, name.removeprefix(prefix), count) for pid, name, count in counted if name.startswith(prefix)]


def _answers(counted: list[Counted]) -> Metric:
    """By the parts of the label. Only where tenants see different things has one a view, and then all have."""
    parts = [(pid, label.split("/"), count) for pid, label, count in counted]
    viewed = any(len(labels) > len(ANSWER_LABELS) for _, labels, _ in parts)
    names = ["worker", *ANSWER_LABELS, *(["view"] if viewed else [])]
    family = CounterMetricFamily("fairway_dns_answers", "Answers of each DNS worker", labels=names)
    for pid, labels, count in parts:
        family.add_metric([pid, *labels, *[""] * (len(names) - 1 - len(labels))], count)
    return family


def _limited(counted: list[Counted]) -> Metric:
    family = CounterMetricFamily("fairway_dns_limited", "Queries over the limit of their sender", labels=["worker", "client"])
    for pid, client, count in counted:
        family.add_metric([pid, client], count)
    return family


def _events(counted: list[Counted]) -> Metric:
    family = CounterMetricFamily("fairway_dns_events", "Counts kept by each DNS worker", labels=["worker", "event"])
    for pid, event, count in counted:
        family.add_metric([pid, event], count)
    return family


def _durations(metric: str, text: str, kind: str, workers: list[tuple[str, Stats]]) -> Metric:
    family = HistogramMetricFamily(metric, text, labels=["worker", kind])
    for pid, stats in workers:
        for name, found in sorted(stats.durations.items()):
            if name.startswith(f"{kind}:"):
                family.add_metric([pid, name.removeprefix(f"{kind}:")], list(found.cumulative()), found.sum)
    return family


def _sizes(workers: list[tuple[str, Stats]]) -> Metric:
    family = GaugeMetricFamily("fairway_dns_size", "What each DNS worker holds now", labels=["worker", "what"])
    for pid, stats in workers:
        for what, count in sorted(stats.gauges.items()):
            family.add_metric([pid, what], count)
    return family


class SupervisorCollector(Collector):
    """Workers that had to be started anew, by the reason."""

    def __init__(self, supervisors: Sequence[WorkerSupervisor]) -> None:
        self._supervisors = supervisors

    def collect(self) -> list[Metric]:
        family = CounterMetricFamily("fairway_dns_worker_restarts", "DNS workers started anew, by the reason", labels=["reason"])
        family.add_metric(["ended"], sum(one.restarts for one in self._supervisors))
        family.add_metric(["hung"], sum(one.hung for one in self._supervisors))
        return [family]
