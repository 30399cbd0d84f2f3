"""World: lookups, and the cost of a change counted in calls."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import FrameType
from typing import Any

from fairway_core.keys import Key
from fairway_core.model import Attachment, EndpointSlice, Meta, Namespace, NetworkPolicy, Node, Object, Pod, Service, ServicePort
from fairway_core.selectors import EVERYTHING, selector_from_document, selector_from_labels
from fairway_core.world import ATTACHMENT_POD, POLICY_NS, SERVICE_IP, Change, World, is_derived


def pod(name: str, ip: str, namespace: str = "shop", **fields: Any) -> Pod:
    return Pod(Meta(name, namespace, fields.pop("labels", {"app": name[0]})), (ip,), phase="Running", ready=True, **fields)


def service(name: str, app: str, namespace: str = "shop") -> Service:
    selector = selector_from_labels({"app": app})
    return Service(Meta(name, namespace), cluster_ips=("10.96.0.1",), selector=selector, ports=(ServicePort(80),))


def put(*items: Object) -> list[Change]:
    return [Change(item.meta.key(type(item).__name__), item) for item in items]


def world_of(*items: Object) -> World:
    return World().apply(put(*items), 1)[0]


def test_a_pod_change_touches_the_slices_of_the_services_that_select_it() -> None:
    world = world_of(service("web", "w"), service("api", "a"), pod("w1", "10.0.0.1"))
    after, touched = world.apply(put(replace(world.pods()[0], ready=False)), 2)
    assert touched == {Key("Pod", "shop", "w1"), Key("EndpointSlice", "shop", "web:0")}
    assert not after.slices_of("shop", "web")[0].endpoints[0].ready
    assert world.slices_of("shop", "web")[0].endpoints[0].ready


def test_relabelling_moves_a_pod_between_services() -> None:
    world = world_of(service("web", "w"), service("api", "a"), pod("w1", "10.0.0.1"))
    after, touched = world.apply(put(pod("w1", "10.0.0.1", labels={"app": "a"})), 2)
    assert [len(after.slices_of("shop", name)) for name in ("web", "api")] == [0, 1]
    assert {key.name for key in touched} == {"w1", "web:0", "api:0"}


def test_a_change_and_its_undoing_in_one_step_touch_nothing() -> None:
    world = world_of(pod("w1", "10.0.0.1"))
    _, touched = world.apply(
        [*put(pod("w1", "10.0.0.9"), pod("w1", "10.0.0.1"), pod("x", "10.0.0.2")), Change(Key("Pod", "shop", "x"), None)], 2
    )
    assert touched == frozenset()


def test_a_stored_slice_never_meets_a_derived_one() -> None:
    world = world_of(service("web", "w"), pod("w1", "10.0.0.1"))
    derived = world.slices_of("shop", "web")[0]
    copy = replace(derived, meta=replace(derived.meta, name="web-copy"))
    after, _ = world.apply([*put(copy), Change(derived.meta.key("EndpointSlice"), None)], 2)
    assert [item.meta.name for item in after.slices_of("shop", "web")] == ["web-copy", "web:0"]
    assert [is_derived(item) for item in after.slices_of("shop", "web")] == [False, True]
    gone, _ = after.apply([Change(Key("Service", "shop", "web"), None)], 3)
    assert [item.meta.name for item in gone.all(EndpointSlice)] == ["web-copy"]


def test_lookups() -> None:
    policy = NetworkPolicy(Meta("deny", "shop"), EVERYTHING, frozenset({"Ingress"}))
    attachment = Attachment(Meta("a"), "net", "c", "eth0", "/ns", "shop", "w1", "fwb1", "02:00:00:00:00:01", ("10.0.0.1",))
    namespace = Namespace(Meta("shop", labels={"team": "a"}))
    world = world_of(service("web", "w"), pod("w1", "10.0.0.1"), policy, attachment, namespace, Node(Meta("n1")))
    assert world.pod("shop", "w1") == world.pod_of_ip("10.0.0.1") == world.pods()[0]
    assert world.service("shop", "web") == world.at(Service, SERVICE_IP, "10.96.0.1")[0]
    assert world.at(NetworkPolicy, POLICY_NS, "shop") == world.policies() == [policy]
    assert world.at(Attachment, ATTACHMENT_POD, "shop", "w1") == world.attachments() == [attachment]
    assert [node.meta.name for node in world.nodes()] == ["n1"]
    assert world.namespace_labels("shop") == {"team": "a"}
    assert world.namespace_labels("other") == {"kubernetes.io/metadata.name": "other"}
    assert world.get(Key("Pod", "shop", "nobody")) is None and world.pod("pay", "w1") is None


def test_an_address_belongs_to_the_living_pod() -> None:
    done = replace(pod("a-done", "10.0.0.1"), phase="Succeeded")
    world = world_of(done, pod("b-host", "10.0.0.1", host_network=True), pod("c", "10.0.0.1"), pod("d", "10.0.0.1"))
    found = world.pod_of_ip("10.0.0.1")
    assert found is not None and found.meta.name == "c"
    assert world.pod_of_ip("10.0.0.2") is None


def test_an_address_goes_over_to_the_successor_of_a_pod_that_is_leaving() -> None:
    leaving, successor = replace(pod("a", "10.0.0.1"), terminating=True), pod("b", "10.0.0.1")
    assert world_of(leaving, successor).pod_of_ip("10.0.0.1") == successor
    assert world_of(leaving).pod_of_ip("10.0.0.1") == leaving
    # Nobody else can have what a container here still uses.
    here = Attachment(Meta("x"), "net", "c", "eth0", "/ns", "shop", "a", "fwb1", "02:00:00:00:00:01", ("10.0.0.1",))
    assert world_of(leaving, successor, here).pod_of_ip("10.0.0.1") == leaving


def test_pods_matching_any_selector() -> None:
    world = world_of(pod("w1", "10.0.0.1"), pod("w2", "10.0.0.2"), pod("a1", "10.0.0.3"), pod("w3", "10.0.0.4", "pay"))
    not_w = selector_from_document({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["w"]}]})
    names = [
        [p.meta.name for p in world.pods_matching("shop", s)] for s in (selector_from_labels({"app": "w"}), EVERYTHING, not_w)
    ]
    assert names == [["w1", "w2"], ["a1", "w1", "w2"], ["a1"]]


def calls_of_one_change(others: int) -> int:
    """Python calls made by one pod change in a world with many other pods and services."""
    items: list[Object] = [service("web", "w"), pod("w1", "10.0.0.1")]
    for number in range(others):
        app = {"app": f"x{number}"}
        items += [service(f"s{number}", f"x{number}"), pod(f"p{number}", f"10.1.{number // 250}.{number % 250}", labels=app)]
    world, count = world_of(*items), 0

    def profile(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    changes = put(pod("w1", "10.0.0.2"))
    sys.setprofile(profile)
    try:
        _, touched = world.apply(changes, 2)
    finally:
        sys.setprofile(None)
    assert len(touched) == 2
    return count


def test_a_change_costs_the_same_in_a_large_world() -> None:
    # Hash tries call __eq__ where hashes share a bucket, hence a little room.
    small, large = calls_of_one_change(10), calls_of_one_change(1000)
    assert large <= small * 1.2


def test_a_node_that_changes_its_zone_moves_its_endpoints() -> None:
    near = replace(service("web", "w"), traffic_distribution="PreferSameZone")
    here = replace(pod("w1", "10.0.0.1"), node_name="n1")
    node = Node(Meta("n1", "", {"topology.kubernetes.io/zone": "a"}))
    world = world_of(near, here, node)
    [piece] = world.slices_of(near.meta.namespace, near.meta.name)
    assert piece.endpoints[0].for_zones == ("a",)
    moved = replace(node, meta=Meta("n1", "", {"topology.kubernetes.io/zone": "b"}))
    after, touched = world.apply([Change(Key("Node", "", "n1"), moved)], 9)
    [piece] = after.slices_of(near.meta.namespace, near.meta.name)
    assert (piece.endpoints[0].zone, piece.endpoints[0].for_zones) == ("b", ("b",))
    assert touched == {Key("Node", "", "n1"), piece.meta.key("EndpointSlice")}
    assert world_of(near, here, moved).objects == after.objects
