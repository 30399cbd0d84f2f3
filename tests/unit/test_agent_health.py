"""What load balancers are told: fresh rules, a node that stays, services with endpoints here."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import aiohttp
import pytest

from fairway_agent.freshness import STALE_SECONDS, Freshness, Progress
from fairway_agent.health import HealthCheck, eligible, health_check, proxy_health
from fairway_agent.health_server import HealthServer, place_of
from fairway_agent.problems import Problems
from fairway_core.clock import FakeClock
from fairway_core.codec import decode
from fairway_core.logs import configure
from fairway_core.model import Endpoint, EndpointSlice, Meta, Node, Object, Service, ServicePort, SlicePort
from fairway_core.world import Change, World

WEB = Service(
    Meta("web", "shop"),
    "LoadBalancer",
    ("10.96.0.10",),
    ports=(ServicePort(80),),
    external_policy_local=True,
    health_check_port=30999,
)


def piece(*endpoints: Endpoint, family: int = 4, name: str = "web-1") -> EndpointSlice:
    return EndpointSlice(Meta(name, "shop"), "web", family, endpoints, (SlicePort("", 8080),))


def here(number: int, ready: bool = True, node: str = "me", family: int = 4) -> Endpoint:
    return Endpoint((f"10.0.0.{number}" if family == 4 else f"fd00::{number}",), ready, node_name=node)


def world_of(*items: Object) -> World:
    return World().apply([Change(item.meta.key(type(item).__name__), item) for item in items], 1)[0]


@pytest.mark.parametrize(
    ("items", "count"),
    [
        ([], 0),
        ([piece(here(1), here(2), here(3, node="other"), here(4, ready=False), here(5, node=""))], 2),
        ([piece(here(1)), piece(here(1), name="web-2")], 1),
        ([piece(here(1), here(2)), piece(here(1, family=6), here(2, family=6), family=6, name="web-6")], 2),
    ],
)
def test_ready_endpoints_of_this_node_are_counted_once(items: list[EndpointSlice], count: int) -> None:
    assert health_check(world_of(WEB, *items), ("shop", "web"), "me") == HealthCheck("shop", "web", 30999, count)


@pytest.mark.parametrize(
    "service",
    [
        replace(WEB, health_check_port=0),
        replace(WEB, external_policy_local=False),
        replace(WEB, headless=True, cluster_ips=()),
        replace(WEB, meta=Meta("web", "shop", {"service.kubernetes.io/service-proxy-name": "other"})),
    ],
)
def test_other_services_have_no_check(service: Service) -> None:
    assert health_check(world_of(service, piece(here(1))), ("shop", "web"), "me") is None


def test_a_check_answers_as_kube_proxy_does() -> None:
    check = HealthCheck("shop", "web", 30999, 2)
    answer = check.answer(fresh=True)
    assert (answer.status, dict(answer.headers)["X-Load-Balancing-Endpoint-Weight"]) == (200, "2")
    assert answer.body == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 2,
        "serviceProxyHealthy": True,
    }
    assert check.answer(fresh=False).status == 503
    assert replace(check, endpoints=0).answer(fresh=True).status == 503


@pytest.mark.parametrize(
    ("spec", "meta", "stays"),
    [
        ({}, {}, True),
        ({"taints": [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]}, {}, True),
        ({"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}]}, {}, False),
        ({}, {"deletionTimestamp": "2026-01-01T00:00:00Z"}, False),
    ],
)
def test_a_node_that_is_about_to_go_is_not_eligible(spec: dict[str, Any], meta: dict[str, Any], stays: bool) -> None:
    node = decode({"kind": "Node", "metadata": {"name": "me", **meta}, "spec": spec})
    assert eligible(world_of(node), "me") is stays
    assert eligible(world_of(node), "other"), "another node's end is not ours"
    assert proxy_health(True, 1.0, 2.0, stays).status == (200 if stays else 503)
    assert proxy_health(True, 1.0, 2.0, None).status == 200, "livez knows nothing of it"


def test_times_are_rfc_3339_and_null_before_the_first() -> None:
    answer = proxy_health(False, 0.0, 1_700_000_000.25, True)
    assert answer.status == 503
    assert answer.body == {"lastUpdated": None, "currentTime": "2023-11-14T22:13:20.250000Z", "nodeEligible": True}
    assert datetime.fromisoformat(str(proxy_health(True, 5.0, 6.0, None).body["lastUpdated"]))


class Rules:
    """How far a node is, as a test says."""

    def __init__(self) -> None:
        self.now = Progress(0, 0)
        self.clock = FakeClock()
        self.freshness = Freshness(self.clock, lambda: self.now)

    def looks(self, steps: Iterable[Progress], seconds: float) -> list[bool]:
        found = []
        for self.now in steps:
            self.clock.advance(seconds)
            found.append(self.freshness.look())
        return found


def test_nothing_is_fresh_before_the_first_rules_are_live() -> None:
    rules = Rules()
    assert rules.looks([Progress(0, 0), Progress(5, 0), Progress(5, 5)], 1) == [False, False, True]


def test_rules_that_keep_up_under_load_stay_fresh() -> None:
    rules = Rules()
    steady = [Progress(10 * step + 15, 10 * step + 5) for step in range(300)]
    assert all(rules.looks(steady, 1)), "there is always something waiting, but never the same"


def test_one_change_that_does_not_become_live_makes_stale() -> None:
    rules = Rules()
    assert rules.looks([Progress(5, 5)], 1) == [True]
    at = rules.freshness.updated
    behind = rules.looks([Progress(6 + step, 5) for step in range(int(STALE_SECONDS) + 2)], 1)
    assert behind == [True] * int(STALE_SECONDS) + [False] * 2
    assert rules.freshness.updated == at, "and tells since when"
    assert rules.looks([Progress(100, 100)], 1) == [True]
    assert rules.freshness.updated > at


def test_rules_known_to_be_wrong_make_stale() -> None:
    rules = Rules()
    wrong = Progress(5, 5, broken=True)
    assert rules.looks([Progress(5, 5), wrong, wrong, wrong, Progress(5, 5)], 40) == [True, True, True, False, True]


def free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


@asynccontextmanager
async def served(listen: str, progress: Progress, problems: Problems) -> AsyncIterator[HealthServer]:
    clock = FakeClock()
    server = HealthServer("me", place_of(listen), Freshness(clock, lambda: progress), clock, problems)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(port: int, path: str = "/healthz") -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as response:
        return response.status, await response.json(content_type="application/json")


async def test_the_port_answers_as_soon_as_it_is_open() -> None:
    port = free_port()
    async with served(f"127.0.0.1:{port}", Progress(1, 1), Problems(configure())):
        assert (await ask(port))[0] == 200
        assert (await ask(port, "/livez"))[0] == 200
        status, body = await ask(port)
        assert status == 200 and body["nodeEligible"] is True


async def test_a_node_that_goes_answers_503_on_healthz_alone() -> None:
    port = free_port()
    async with served(f"127.0.0.1:{port}", Progress(1, 1), Problems(configure())) as server:
        world = world_of(Node(Meta("me"), leaving=True))
        server.follow(World(), world, frozenset(world.objects))
        assert (await ask(port))[0] == 503
        assert (await ask(port, "/livez"))[0] == 200


async def test_of_two_services_with_one_port_the_first_is_answered_and_the_other_named() -> None:
    problems = Problems(configure())
    async with served("", Progress(1, 1), problems) as server:
        other = replace(WEB, meta=Meta("api", "shop"), cluster_ips=("10.96.0.11",))
        both = world_of(WEB, other)
        server.follow(World(), both, frozenset(both.objects))
        text = "Service/shop/web: healthCheckNodePort 30999 is answered for Service/shop/api"
        assert problems.texts() == [text]
        alone, touched = both.apply([Change(other.meta.key("Service"), None)], 2)
        server.follow(both, alone, touched)
        assert problems.texts() == []
