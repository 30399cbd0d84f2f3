"""Which backends `fairway why` judges: those the rules of the source's node choose among."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairway_core.model import Endpoint, EndpointSlice, Meta, Node, Object, Pod, Service, ServicePort, SlicePort
from fairway_core.world import Change, World
from fairway_policy.explain import Answer, explain

ZONE = "topology.kubernetes.io/zone"
VIP, OUTER, BALANCER, OUTSIDE = "10.96.0.1", "203.0.113.1", "203.0.113.2", "198.51.100.9"
WEB = Service(
    Meta("web", "shop"),
    cluster_ips=(VIP,),
    ports=(ServicePort(80, "TCP", "http", 8080),),
    external_ips=(OUTER,),
    load_balancer_ips=(BALANCER,),
)
NODES = [
    Node(Meta(f"n{number}", "", {ZONE: zone}), (f"192.0.2.{number}",), internal=(f"192.0.2.{number}",))
    for number, zone in ((1, "a"), (2, "a"), (3, "b"))
]
PODS = [Pod(Meta(f"p{number}", "shop"), (f"10.0.{number}.9",), phase="Running", node_name=f"n{number}") for number in (1, 2, 3)]
ENDPOINTS = tuple(Endpoint((f"10.0.{number}.1",), node_name=f"n{number}") for number in (2, 3))
SLICE = EndpointSlice(Meta("web-1", "shop"), "web", 4, ENDPOINTS, (SlicePort("http", 8080),))
GOING = {"ready": False, "serving": True, "terminating": True}


def ask(source: str, destination: str, *objects: Object) -> Answer:
    given = {item.meta.key(type(item).__name__): item for item in (*NODES, *PODS, WEB, SLICE, *objects)}
    world = World(derive_endpoints=False).apply([Change(key, item) for key, item in given.items()], 1)[0]
    return explain(world, source, destination, 80)


def got(source: str, destination: str, *objects: Object) -> list[int]:
    """Numbers of the nodes whose backends are judged."""
    return [int(check["ip"].split(".")[2]) for check in ask(source, destination, *objects)["checks"]]


def hinted(*zones: str) -> EndpointSlice:
    return replace(SLICE, endpoints=tuple(replace(e, for_zones=(zone,)) for e, zone in zip(ENDPOINTS, zones, strict=True)))


def test_hints_narrow_by_the_zone_of_the_source() -> None:
    slices = hinted("a", "b")
    assert got("shop/p1", "shop/web") == [2, 3]
    assert got("shop/p1", "shop/web", slices) == [2]
    assert got("shop/p3", "shop/web", slices) == [3]
    assert got("192.0.2.3", "shop/web", slices) == [3], "the node itself"
    assert got(OUTSIDE, "shop/web", slices) == [2, 3], "by any node"
    assert got("shop/p3", "shop/web", hinted("a", "c")) == [2, 3], "no hint for the zone"


def test_hints_for_nodes_go_first() -> None:
    near = tuple(replace(e, for_nodes=(e.node_name,), for_zones=("a",)) for e in ENDPOINTS)
    assert got("shop/p3", "shop/web", replace(SLICE, endpoints=near)) == [3]
    assert got("shop/p1", "shop/web", replace(SLICE, endpoints=near)) == [2, 3], "its zone, for want of its node"


def test_internal_policy_local() -> None:
    local = replace(WEB, internal_policy_local=True)
    assert got("shop/p2", "shop/web", local) == got("shop/p2", VIP, local) == [2]
    assert got("shop/p2", OUTER, local) == [2, 3], "by an external address the external policy counts"
    answer = ask("shop/p1", "shop/web", local)
    assert not answer["allowed"]
    assert answer["lines"][0].endswith("dropped, by traffic policy Local, since no usable backend is on node n1")


def test_external_policy_local_is_for_clients_outside() -> None:
    local = replace(WEB, external_policy_local=True)
    for door in (OUTER, BALANCER):
        for inside in ("shop/p1", "192.0.2.1"):
            assert got(inside, door, local) == [2, 3]
        draining = replace(SLICE, endpoints=(ENDPOINTS[0], replace(ENDPOINTS[1], **GOING)))
        assert got(OUTSIDE, door, local, draining) == [2, 3], "each node falls back for itself"
        assert got("shop/p1", door, local, draining) == [2]


@pytest.mark.parametrize("policy", [{}, {"internal_policy_local": True}])
def test_terminating_backends_serve_if_none_is_ready(policy: dict[str, bool]) -> None:
    going = replace(SLICE, endpoints=(replace(ENDPOINTS[0], **GOING),))
    assert got("shop/p2", "shop/web", replace(WEB, **policy), going) == [2]
    assert got("shop/p2", "shop/web", replace(WEB, **policy), replace(going, endpoints=())) == []


def test_source_ranges_shut_out() -> None:
    closed = replace(WEB, source_ranges=("192.0.2.0/24",))
    assert got("192.0.2.77", BALANCER, closed) == [2, 3]
    assert "loadBalancerSourceRanges" in ask(OUTSIDE, BALANCER, closed)["lines"][0]
    assert got(OUTSIDE, OUTER, closed) == [2, 3]
    assert "loadBalancerSourceRanges" in ask("shop/p1", BALANCER, closed)["lines"][0], "pods are sources as well"


def test_a_headless_service_offers_what_dns_tells() -> None:
    assert got("shop/p1", "shop/web", replace(WEB, headless=True, cluster_ips=()), hinted("a", "b")) == [2, 3]
