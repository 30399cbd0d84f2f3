"""The agent's own metrics, in a registry of its own (no globals)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fairway_agent.dataplane import Applied
from fairway_agent.gaps import Gaps
from fairway_agent.live import LiveRevisions
from fairway_agent.problems import Problems
from fairway_core.errors import KernelError
from fairway_kernel.nft.counters import Count

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Names begin with `fairway_`; durations are in seconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.steps = Histogram(
            "fairway_reconcile_seconds", "Time from a change seen to its rules committed", buckets=SECONDS, registry=self.registry
        )
        self.elements = Counter("fairway_nft_elements_changed", "nft elements added, changed or deleted", registry=self.registry)
        self.bumps = Counter(
            "fairway_policy_generation_bumps", "Times established connections were judged anew", registry=self.registry
        )
        self.nft_failures = Counter("fairway_nft_failures", "Transactions the kernel refused", registry=self.registry)
        self.repairs = Counter(
            "fairway_drift_repairs", "Kernel objects put back after a foreign change", ["part"], registry=self.registry
        )
        self.propagation = Histogram(
            "fairway_propagation_seconds",
            "Time from a change in the store until a part works by it",
            ["part"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.lag = Histogram(
            "fairway_loop_lag_seconds",
            "How late the event loop was, twenty times a second",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.cni = Histogram(
            "fairway_cni_seconds", "Time to answer a CNI request", ["command", "exit"], buckets=SECONDS, registry=self.registry
        )

    def observe_step(self, seconds: float, applied: Applied) -> None:
        """Record one reconcile step."""
        self.steps.observe(seconds)
        self.elements.inc(applied.elements)
        if applied.bumped:
            self.bumps.inc()

    def repair_counts(self) -> dict[str, float]:
        """Repairs so far, by part."""
        samples = (sample for family in self.repairs.collect() for sample in family.samples)
        return {sample.labels["part"]: sample.value for sample in samples if sample.name.endswith("_total")}

    def observe_propagation(self, part: str, seconds: float) -> None:
        """Record that a part works by a change."""
        self.propagation.labels(part).observe(seconds)

    def render(self) -> bytes:
        """Prometheus text exposition format 0.0.4."""
        return generate_latest(self.registry)


class LiveCollector(Collector):
    """Live revisions, read at scrape time."""

    def __init__(self, live: LiveRevisions) -> None:
        self._live = live

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily("fairway_live_revision", "Revision that is live, by part", labels=["part"])
        for part, revision in self._live.snapshot().items():
            family.add_metric([part], revision)
        return [family]


class RuleCollector(Collector):
    """Counters of commented rules (denied, invalid, not pinned), read from the kernel at scrape time: a few single chains."""

    def __init__(self, read: Callable[[], list[Count]]) -> None:
        self._read = read

    def collect(self) -> list[Metric]:
        packets = CounterMetricFamily("fairway_rule_packets", "Packets counted by a rule, by the rule's comment", labels=["rule"])
        octets = CounterMetricFamily("fairway_rule_bytes", "Bytes counted by a rule, by the rule's comment", labels=["rule"])
        for comment, (count, size) in sorted(self._sums().items()):
            packets.add_metric([comment], count)
            octets.add_metric([comment], size)
        return [packets, octets]

    def _sums(self) -> dict[str, tuple[int, int]]:
        """By comment: several chains (bridged and routed, say) may count the same thing."""
        sums: dict[str, tuple[int, int]] = {}
        try:
            counts = self._read()
        except KernelError:
            # A scrape must show the rest; rules that cannot be read are the business of the drift check.
            return {}
        for item in counts:
            before = sums.get(item.comment, (0, 0))
            sums[item.comment] = (before[0] + item.packets, before[1] + item.octets)
        return sums


class AddressCollector(Collector):
    """Addresses of containers, by CIDR, at scrape time."""

    def __init__(self, counts: Callable[[], dict[str, tuple[int, int]]]) -> None:
        self._counts = counts

    def collect(self) -> list[Metric]:
        used = GaugeMetricFamily("fairway_ipam_addresses_used", "Addresses held by containers, by CIDR", labels=["cidr"])
        size = GaugeMetricFamily("fairway_ipam_addresses", "Addresses that can be given out, by CIDR", labels=["cidr"])
        for cidr, (held, total) in self._counts().items():
            used.add_metric([cidr], held)
            size.add_metric([cidr], total)
        return [used, size]


class GapCollector(Collector):
    """Objects that ask for more than is enforced, at scrape time."""

    def __init__(self, gaps: Gaps) -> None:
        self._gaps = gaps

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily("fairway_unenforced_objects", "Objects that use features not enforced here", labels=["kind"])
        for kind, count in self._gaps.counts().items():
            family.add_metric([kind], count)
        return [family]


class ProblemCollector(Collector):
    """Open problems, at scrape time: what `fairway status` lists in words."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def collect(self) -> list[Metric]:
        family = GaugeMetricFamily("fairway_problems", "Problems that are open now")
        family.add_metric([], self._problems.count)
        return [family]
