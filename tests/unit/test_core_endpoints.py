"""From pods to endpoints to backends; selectors by table; what the codec fills in and refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fairway_core.codec import decode
from fairway_core.delta import DeltaTracker
from fairway_core.endpoints import Backend, backends, derive_slices, usable
from fairway_core.errors import UserError
from fairway_core.model import Endpoint, EndpointSlice, Meta, Pod, PodPort, Service, ServicePort, SlicePort
from fairway_core.selectors import Selector, selector_from_document

PORT = ServicePort(80, "TCP", "web", "http")
SERVICE = Service(Meta("web", "shop"), ports=(PORT,))


def pod(name: str, *ips: str, port: int = 8080, **fields: Any) -> Pod:
    base = Pod(Meta(name, "shop"), ips or ("10.0.0.1",), (PodPort("http", port),), "n1", phase="Running", ready=True)
    return replace(base, **fields)


def test_a_slice_per_family_and_set_of_target_ports() -> None:
    made = derive_slices(SERVICE, [pod("a", "10.0.0.1", "fd00::1"), pod("b", "10.0.0.2"), pod("c", "10.0.0.3", port=9090)])
    assert [(item.meta.name, item.family, item.ports[0].port, len(item.endpoints)) for item in made] == [
        ("web:0", 4, 8080, 2),
        ("web:1", 4, 9090, 1),
        ("web:2", 6, 8080, 1),
    ]
    assert backends(made, PORT, 4)[2] == Backend("10.0.0.3", 9090, node_name="n1", pod="c")


@pytest.mark.parametrize(
    "left_out",
    [{"ips": ()}, {"phase": "Succeeded"}, {"phase": "Failed"}, {"ports": ()}, {"ports": (PodPort("http", 80, "UDP"),)}],
)
def test_pods_that_cannot_answer_are_left_out(left_out: dict[str, Any]) -> None:
    assert derive_slices(SERVICE, [pod("a", **left_out)]) == []


@pytest.mark.parametrize(
    ("ready", "terminating", "publish", "expected"),
    [
        (True, False, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (True, True, False, (False, True, True)),
        (False, True, False, (False, False, True)),
        (False, False, True, (True, True, False)),
    ],
)
def test_conditions_of_an_endpoint(ready: bool, terminating: bool, publish: bool, expected: tuple[bool, ...]) -> None:
    service = replace(SERVICE, publish_not_ready=publish)
    found = derive_slices(service, [pod("a", ready=ready, terminating=terminating)])[0].endpoints[0]
    assert (found.ready, found.serving, found.terminating) == expected


def test_a_hostname_needs_the_services_name_as_subdomain() -> None:
    mine, other = pod("a", hostname="db-0", subdomain="web"), pod("b", "10.0.0.2", hostname="db-1", subdomain="else")
    assert [e.hostname for e in derive_slices(SERVICE, [mine, other])[0].endpoints] == ["db-0", ""]


def test_an_endpoint_in_two_slices_is_as_ready_as_its_readiest_appearance() -> None:
    def item(name: str, ready: bool) -> EndpointSlice:
        return EndpointSlice(Meta(name), "web", 4, (Endpoint(("10.0.0.1",), ready, ready),), (SlicePort("web", 8080),))

    for order in ([item("a", True), item("b", False)], [item("b", False), item("a", True)]):
        assert [backend.ready for backend in backends(order, PORT, 4)] == [True]


@pytest.mark.parametrize(("target", "number"), [(8080, 8080), ("http", 80), (0, 80)])
def test_a_slice_port_of_zero_means_the_services_target(target: int | str, number: int) -> None:
    item = EndpointSlice(Meta("a"), "web", 4, (Endpoint(("10.0.0.1",)),), (SlicePort("web", 0),))
    assert backends([item], replace(PORT, target=target), 4)[0].port == number
    assert backends([item], replace(PORT, protocol="UDP"), 4) == [] == backends([item], PORT, 6)


def test_terminating_endpoints_are_used_only_when_none_is_ready() -> None:
    ready, leaving = Backend("1", 80), Backend("2", 80, ready=False, terminating=True)
    gone, starting = Backend("3", 80, False, False, True), Backend("4", 80, ready=False)
    assert usable([ready, leaving, gone, starting]) == [ready]
    assert usable([leaving, gone, starting]) == [leaving]
    assert usable([gone, starting]) == []


@pytest.mark.parametrize(
    ("expression", "labels", "matches"),
    [
        ({"key": "a", "operator": "In", "values": ["x", "y"]}, {"a": "y"}, True),
        ({"key": "a", "operator": "In", "values": ["x"]}, {}, False),
        ({"key": "a", "operator": "NotIn", "values": ["x"]}, {}, True),
        ({"key": "a", "operator": "NotIn", "values": ["x"]}, {"a": "x"}, False),
        ({"key": "a", "operator": "Exists"}, {"a": ""}, True),
        ({"key": "a", "operator": "Exists"}, {"b": ""}, False),
        ({"key": "a", "operator": "DoesNotExist"}, {"b": ""}, True),
        ({"key": "a", "operator": "DoesNotExist"}, {"a": ""}, False),
    ],
)
def test_selector_operators(expression: dict[str, Any], labels: dict[str, str], matches: bool) -> None:
    assert selector_from_document({"matchExpressions": [expression]}).matches(labels) is matches


def test_a_selector_is_written_as_users_write_it() -> None:
    document = {
        "matchLabels": {"app": "web"},
        "matchExpressions": [
            {"key": "tier", "operator": "NotIn", "values": ["b", "a"]},
            {"key": "x", "operator": "Exists"},
            {"key": "y", "operator": "DoesNotExist"},
        ],
    }
    assert str(selector_from_document(document)) == "app in (web), tier notin (a,b), x, !y"
    assert str(Selector()) == "everything"


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "Equals", "values": ["x"]},
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "In", "values": [1]},
    ],
)
def test_a_selector_that_could_be_misread_is_refused(expression: dict[str, Any]) -> None:
    policy = {"podSelector": {"matchExpressions": [expression]}}
    with pytest.raises(UserError, match="NetworkPolicy/default/p"):
        decode({"kind": "NetworkPolicy", "metadata": {"name": "p"}, "spec": policy})


@pytest.mark.parametrize(
    "spec",
    [
        {"ports": [{"port": 65536}]},
        {"ports": [{"port": "80"}]},
        {"ports": [{"port": 80, "protocol": "tcp accept"}]},
        {"clusterIP": "10.96.0"},
        {"clusterIP": "fe80::1%eth0"},
        {"externalIPs": [5]},
        {"selector": {"app": ["web"]}},
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": float("inf")}}},
    ],
)
def test_a_service_the_kernel_would_choke_on_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="Service/default/web"):
        decode({"kind": "Service", "metadata": {"name": "web"}, "spec": spec})


@pytest.mark.parametrize("endpoint", [{"addresses": []}, {"addresses": ["fd00::1"]}, {"addresses": "10.0.0.1"}, {}])
def test_an_endpoint_needs_an_address_of_the_slices_family(endpoint: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        decode({"kind": "EndpointSlice", "metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": [endpoint]})


def test_a_service_document_gets_its_defaults() -> None:
    spec = {"clusterIPs": ["10.96.0.1", "FD00::0001"], "ports": [{"port": 80}], "sessionAffinity": "ClientIP"}
    found = decode({"kind": "Service", "metadata": {"name": "web"}, "spec": spec})
    assert found == Service(
        Meta("web", "default"),
        cluster_ips=("10.96.0.1", "fd00::1"),
        ports=(ServicePort(80, "TCP", "", 80, 0),),
        affinity_seconds=10800,
    )


def test_a_lost_claim_is_reported_and_wins_when_the_winner_goes() -> None:
    tracker: DeltaTracker[str, str] = DeltaTracker()
    tracker.declare(("service", "shop", "b"), {"vip": "B"})
    tracker.declare(("service", "shop", "a"), {"vip": "A"})
    assert tracker.desired("vip") == "A" and tracker.conflicts("vip") == {("service", "shop", "b"): "B"}
    tracker.committed(tracker.pending())
    tracker.declare(("service", "shop", "a"), {})
    assert tracker.pending().change == {"vip": ("A", "B")}
    assert list(tracker.owners()) == [("service", "shop", "b")]


@pytest.mark.parametrize(
    ("wish", "zone", "hints"),
    [
        ("", "a", ((), ())),
        ("PreferClose", "a", (("a",), ())),
        ("PreferSameZone", "a", (("a",), ())),
        ("PreferSameZone", "", ((), ())),
        ("PreferSameNode", "a", (("a",), ("n1",))),
        ("PreferSameNode", "", ((), ("n1",))),
    ],
)
def test_traffic_distribution_becomes_hints(wish: str, zone: str, hints: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    service = Service(Meta("web", "shop"), ports=(ServicePort(80),), traffic_distribution=wish)
    ready = Pod(Meta("a", "shop"), ("10.0.0.1",), phase="Running", ready=True, node_name="n1")
    [piece] = derive_slices(service, [ready, replace(ready, meta=Meta("b", "shop"), ready=False)], lambda node: zone)
    first, second = piece.endpoints
    assert (first.for_zones, first.for_nodes, first.zone) == (*hints, zone)
    assert (second.for_zones, second.for_nodes) == ((), ()), "what is not ready is preferred by nobody"
