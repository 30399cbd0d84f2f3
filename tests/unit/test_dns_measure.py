"""What is measured, and how the agent shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from fairway_agent.metrics_dns import WorkerCollector
from fairway_agent.propagation import MOST, Propagation
from fairway_core.clock import FakeClock
from fairway_dns.config import Address
from fairway_dns.counters import Counters
from fairway_dns.feed import WorkerInfo
from fairway_dns.histogram import Histogram
from fairway_dns.measure import SERVERS, NameKinds, Timings
from fairway_dns.names import to_key
from fairway_dns.reports import Stats


@given(st.lists(st.tuples(st.floats(-1, 100), st.integers(1, 64)), max_size=50))
def test_histograms_agree_with_counting_one_by_one(observed: list[tuple[float, int]]) -> None:
    histogram = Histogram()
    for seconds, count in observed:
        histogram.observe(seconds, count)
    shown = list(histogram.value.cumulative())
    assert shown[-1] == ("+Inf", sum(count for _, count in observed))
    assert [float(bound) for bound, _ in shown] == sorted(float(bound) for bound, _ in shown)
    for bound, reached in shown[:-1]:
        # Whole microseconds are compared; what lies on a bound belongs to the next bucket.
        assert reached == sum(count for seconds, count in observed if int(max(0.0, seconds) * 1e6) < round(float(bound) * 1e6))
    assert histogram.value.sum == pytest.approx(sum(seconds * count for seconds, count in observed), abs=1e-5)


def test_names_are_of_one_kind() -> None:
    kinds = NameKinds("cluster.local", ["Ldap.corp.example"], [to_key("corp.example"), to_key("7.10.in-addr.arpa")])
    wanted = {
        "web.shop.svc.cluster.local": "service", "cluster.local": "service", "xcluster.local": "foreign",
        "ldap.corp.example": "hosts", "www.corp.example": "stub", "1.2.7.10.in-addr.arpa": "stub",
        "1.0.96.10.in-addr.arpa": "reverse", "8.8.8.8.ip6.arpa": "reverse", "localhost": "special", "x.onion": "special",
        "_dns.resolver.arpa": "special",
        "www.example.com": "foreign", "": "foreign",
    }  # fmt: skip
    assert {name: kinds.of(to_key(name)) for name in wanted} == wanted


def test_upstreams_are_measured_by_address_up_to_a_bound() -> None:
    timings = Timings()
    for number in range(2 * SERVERS):
        timings.upstream(Address(f"192.0.2.{number}"), 0.001)
        timings.upstream(Address("192.0.2.0"), 0.001)
    assert len([name for name in timings.values if name.startswith("upstream:")]) == SERVERS
    assert sum(timings.values["upstream:192.0.2.0:53"].counts) == 2 * SERVERS + 1


def shown(*stats: Stats) -> str:
    registry = CollectorRegistry()
    workers = tuple(WorkerInfo(pid, 1, item) for pid, item in enumerate(stats, 7))
    registry.register(WorkerCollector(cast(Any, SimpleNamespace(workers=lambda: workers))))
    return generate_latest(registry).decode()


def test_the_page_shows_answers_by_label_and_times_by_path() -> None:
    counters, timings = Counters(), Timings()
    counters.reply("service", 1, 3, "tcp", "local")
    counters.reply("foreign", 4711, 0, "udp", "forwarded")
    counters.cell(28, 0, True, "foreign")[0] += 5
    counters.named("limited", "10.244.0.9")[0] += 2
    timings.fast.observe(0.00002, 5)
    timings.upstream(Address("2001:db8::53"), 0.5)
    page = shown(Stats(dict(counters.values), timings.values, {"cache_entries": 3}))
    for line in (
        'fairway_dns_answers_total{path="local",rcode="NXDOMAIN",transport="tcp",type="A",worker="7",zone="service"} 1.0',
        'fairway_dns_answers_total{path="forwarded",rcode="NOERROR",transport="udp",type="other",worker="7",zone="foreign"} 1.0',
        'fairway_dns_answers_total{path="fast",rcode="NOERROR",transport="udp",type="AAAA",worker="7",zone="foreign"} 5.0',
        'fairway_dns_limited_total{client="10.244.0.9",worker="7"} 2.0',
        'fairway_dns_events_total{event="cache_hits:",worker="7"} 5.0',
        'fairway_dns_answer_seconds_bucket{le="0.000016",path="fast",worker="7"} 0.0',
        'fairway_dns_answer_seconds_bucket{le="0.000032",path="fast",worker="7"} 5.0',
        'fairway_dns_answer_seconds_count{path="fast",worker="7"} 5.0',
        'fairway_dns_upstream_seconds_sum{upstream="[2001:db8::53]:53",worker="7"} 0.5',
        'fairway_dns_size{what="cache_entries",worker="7"} 3.0',
    ):
        assert line in page.splitlines()
    assert "answers:" not in page
    assert "view" not in page


def test_views_are_a_label_only_where_there_are_some() -> None:
    plain, viewed = Counters(), Counters()
    plain.reply("service", 1, 0, "udp", "local")
    viewed.reply("service", 1, 0, "udp", "local", "blue")
    page = shown(Stats(dict(plain.values)), Stats(dict(viewed.values)))
    assert 'worker="7",zone="service"' in page
    assert 'view="",worker="7"' in page
    assert 'view="blue",worker="8"' in page


def test_every_change_is_measured_once_per_part() -> None:
    clock, told = FakeClock(), list[tuple[str, float]]()
    propagation = Propagation(["nft", "dns"], lambda part, seconds: told.append((part, seconds)), clock)
    propagation.live("nft", 5)
    propagation.seen(6)
    clock.advance(1)
    propagation.seen(8)
    propagation.live("nft", 7)
    clock.advance(1)
    propagation.live("dns", 8)
    propagation.live("dns", 9)
    assert told == [("nft", 1.0), ("dns", 2.0), ("dns", 1.0)]
    for revision in range(10, 10 + 2 * MOST):
        propagation.seen(revision)
    propagation.live("dns", 10 + 2 * MOST)
    assert len(told) == 3 + MOST
