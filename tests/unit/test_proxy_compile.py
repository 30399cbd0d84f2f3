"""What the service compiler makes of single services."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fairway_core.keys import Key
from fairway_core.model import Endpoint, EndpointSlice, Meta, Node, Object, Pod, Service, ServicePort, SlicePort
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World
from fairway_kernel.nft.objects import Elements, ElementValue, Range, Slot
from fairway_proxy.compile import OTHER_PROXY_LABEL, ServiceCompiler, affinity_timeout, owner_of
from fairway_proxy.marks import class_of, id_of
from fairway_proxy.trace import Trace, trace

WEB = Service(Meta("web", "shop"), cluster_ips=("10.96.0.10",), ports=(ServicePort(80, "TCP", "http", 8080),))
SLICE = EndpointSlice(
    Meta("web-1", "shop"),
    "web",
    4,
    (Endpoint(("10.244.0.2",), node_name="here"), Endpoint(("10.244.1.2",), node_name="there")),
    (SlicePort("http", 8080, "TCP"),),
)
BOTH = {("10.244.0.2", 8080): 1, ("10.244.1.2", 8080): 1}


def changes(*objects: Object) -> list[Change]:
    return [Change(item.meta.key(type(item).__name__), item) for item in objects]


class Compiled:
    """A compiler and all elements its owners have."""

    def __init__(self, *objects: Object) -> None:
        self.world = World()
        self.compiler = ServiceCompiler("here", ("10.244.0.0/24",))
        self.owners: dict[tuple[str, ...], Elements] = {}
        self.apply(*changes(*objects))

    def put(self, *objects: Object) -> None:
        self.apply(*changes(*objects))

    def apply(self, *steps: Change) -> set[tuple[str, ...]]:
        after, touched = self.world.apply(steps, self.world.revision + 1)
        update = self.compiler.update(self.world, after, touched)
        self.owners.update(update)
        self.world = after
        return set(update)

    @property
    def elements(self) -> dict[Slot, ElementValue]:
        return {slot: value for elements in self.owners.values() for slot, value in elements.items()}

    def trace(self, ip: str, port: int = 80, protocol: str = "tcp", inside: bool = False) -> Trace:
        return trace(self.elements, ip, protocol, port, {"192.0.2.1"}, inside)


def test_a_virtual_address_leads_to_the_endpoints_and_nowhere_else() -> None:
    made = Compiled(WEB, SLICE)
    assert made.trace("10.96.0.10") == Trace("balance", BOTH, 0, made.trace("10.96.0.10").mark)
    assert made.trace("10.96.0.10", 81).fate == "reject"
    assert made.trace("10.96.0.10", protocol="udp").fate == "reject"
    assert made.trace("10.96.0.11").fate == "pass"


def test_a_pod_becomes_an_endpoint_through_the_selector() -> None:
    service = replace(WEB, selector=selector_from_labels({"app": "web"}))
    pod = Pod(Meta("web-1", "shop", {"app": "web"}), ("10.244.0.9",), phase="Running", ready=True, node_name="here")
    made = Compiled(service)
    assert made.trace("10.96.0.10").fate == "reject"
    made.put(pod)
    assert made.trace("10.96.0.10").shares == {("10.244.0.9", 8080): 1}
    made.put(replace(pod, ready=False))
    assert made.trace("10.96.0.10").fate == "reject"


@pytest.mark.parametrize(
    "service",
    [
        replace(WEB, headless=True, cluster_ips=()),
        replace(WEB, type="ExternalName", external_name="example.org"),
        replace(WEB, meta=replace(WEB.meta, labels={OTHER_PROXY_LABEL: "mine"})),
    ],
)
def test_services_without_a_virtual_address_compile_to_nothing(service: Service) -> None:
    made = Compiled(service, SLICE)
    assert made.owners == {owner_of("shop", "web"): {}}


def test_a_deleted_service_withdraws_its_elements_and_its_id() -> None:
    made = Compiled(WEB, SLICE)
    made.apply(Change(Key("Service", "shop", "web"), None))
    assert made.owners[owner_of("shop", "web")] == {}
    made.put(replace(WEB, meta=Meta("other", "shop")))
    assert id_of(made.trace("10.96.0.10").mark) == 1


def test_every_way_in_leads_to_the_same_slots() -> None:
    service = replace(
        WEB,
        ports=(replace(WEB.ports[0], node_port=30080),),
        external_ips=("203.0.113.1",),
        load_balancer_ips=("203.0.113.2",),
    )
    made = Compiled(service, SLICE)
    ways = [made.trace("10.96.0.10"), made.trace("203.0.113.1"), made.trace("203.0.113.2"), made.trace("192.0.2.1", 30080)]
    assert len(set(map(repr, ways))) == 1 and ways[0].shares == BOTH
    assert sum(slot.set == "eps4" for slot in made.elements) == 2


def test_policy_local_uses_this_nodes_endpoints_or_drops() -> None:
    service = replace(WEB, external_policy_local=True, external_ips=("203.0.113.1",))
    made = Compiled(service, SLICE)
    assert made.trace("203.0.113.1").shares == {("10.244.0.2", 8080): 1}
    assert made.trace("10.96.0.10").shares == BOTH
    assert made.trace("203.0.113.1", inside=True).shares == BOTH
    made.put(replace(SLICE, endpoints=SLICE.endpoints[1:]))
    assert made.trace("203.0.113.1").fate == "drop"
    assert made.trace("203.0.113.1", inside=True).shares == {("10.244.1.2", 8080): 1}
    made.put(replace(SLICE, endpoints=()))
    assert [made.trace("203.0.113.1", inside=inside).fate for inside in (False, True)] == ["reject", "reject"]
    made.put(replace(service, internal_policy_local=True), SLICE)
    assert made.trace("10.96.0.10").shares == {("10.244.0.2", 8080): 1}
    assert made.trace("10.96.0.10", inside=True).shares == {("10.244.0.2", 8080): 1}, "internal Local holds for everybody"
    assert made.trace("203.0.113.1", inside=True).shares == BOTH


def test_numbers_of_both_sides_survive_a_restart_with_other_endpoints() -> None:
    """Also that of the inner side, which no frontend carries if the virtual IP obeys policy Local too."""
    both = replace(WEB, external_policy_local=True, internal_policy_local=True, external_ips=("203.0.113.1",))
    first = Compiled(replace(WEB, meta=Meta("a", "shop"), cluster_ips=("10.96.0.9",)), both, SLICE)
    again = ServiceCompiler("here", ())
    again.learn(first.elements)
    grown = replace(SLICE, endpoints=(*SLICE.endpoints, Endpoint(("10.244.0.7",), node_name="here")))
    after, _ = first.world.apply([*changes(grown), Change(Key("Service", "shop", "a"), None)], 9)
    elements = again.update(World(), after, frozenset(after.objects))[owner_of("shop", "web")]
    for inside in (False, True):
        old, new = (trace(found, "203.0.113.1", "tcp", 80, inside=inside) for found in (first.elements, elements))
        assert id_of(old.mark) == id_of(new.mark) and len(new.shares) == len(old.shares) + 1


def test_terminating_endpoints_serve_when_nothing_else_does() -> None:
    leaving = Endpoint(("10.244.0.3",), ready=False, serving=True, terminating=True)
    made = Compiled(WEB, replace(SLICE, endpoints=(*SLICE.endpoints, leaving)))
    assert made.trace("10.96.0.10").shares == BOTH
    made.put(replace(SLICE, endpoints=(leaving,)))
    assert made.trace("10.96.0.10").shares == {("10.244.0.3", 8080): 1}


def test_families_are_balanced_apart_under_one_id() -> None:
    service = replace(WEB, cluster_ips=("10.96.0.10", "fd00::10"))
    six = EndpointSlice(Meta("web-6", "shop"), "web", 6, (Endpoint(("fd00:1::2",)),), SLICE.ports)
    made = Compiled(service, SLICE, six)
    four, other = made.trace("10.96.0.10"), made.trace("fd00::10")
    assert other.shares == {("fd00:1::2", 8080): 1} and four.shares == BOTH
    assert id_of(four.mark) == id_of(other.mark) and (class_of(four.mark), class_of(other.mark)) == (2, 1)


def test_affinity_is_a_flag_in_the_mark_with_numbered_endpoints() -> None:
    made = Compiled(replace(WEB, affinity_seconds=24), SLICE)
    found = made.trace("10.96.0.10")
    assert found.timeout == 30 and found.shares == BOTH
    sticky = {value for slot, value in made.elements.items() if slot.set == "eps_sticky4"}
    assert sticky == set(BOTH)


@pytest.mark.parametrize(("asked", "given"), [(1, 10), (10, 10), (24, 30), (10800, 10800), (86400, 86400), (10**6, 86400)])
def test_an_affinity_timeout_is_never_cut_short_within_a_day(asked: int, given: int) -> None:
    assert affinity_timeout(asked) == given


def test_only_pods_that_may_be_here_need_the_hairpin() -> None:
    made = Compiled(WEB, SLICE)
    assert [slot.key for slot in made.elements if slot.set == "svc_hairpin4"] == [("10.244.0.2", "10.244.0.2")]


def test_a_change_concerns_its_own_service_only() -> None:
    others = [replace(WEB, meta=Meta(f"s{n}", "shop"), cluster_ips=(f"10.96.1.{n}",)) for n in range(50)]
    made = Compiled(WEB, SLICE, *others)
    assert made.apply(*changes(replace(SLICE, endpoints=SLICE.endpoints[:1]))) == {owner_of("shop", "web")}


def test_a_slice_that_moves_to_another_service_concerns_both() -> None:
    api = replace(WEB, meta=Meta("api", "shop"), cluster_ips=("10.96.0.11",))
    made = Compiled(WEB, api, SLICE)
    assert made.apply(*changes(replace(SLICE, service="api"))) == {owner_of("shop", "web"), owner_of("shop", "api")}
    assert made.trace("10.96.0.10").fate == "reject" and made.trace("10.96.0.11").shares == BOTH


def test_a_restarted_compiler_finds_nothing_to_change() -> None:
    objects = [replace(WEB, meta=Meta(f"s{n}", "shop"), cluster_ips=(f"10.96.1.{n}",)) for n in range(20)]
    first = Compiled(*objects)
    first.apply(*(Change(item.meta.key("Service"), None) for item in objects[:7]))
    first.put(replace(WEB, meta=Meta("aaa", "shop")), SLICE)
    again = ServiceCompiler("here", ("10.244.0.0/24",))
    again.learn(first.elements)
    elements: dict[Slot, ElementValue] = {}
    for part in again.update(World(), first.world, frozenset(first.world.objects)).values():
        elements.update(part)
    assert elements == first.elements


DNS = replace(WEB, ports=(ServicePort(53, "UDP", "http", 53), ServicePort(53, "TCP", "tcp", 53)))
DNS_SLICE = replace(SLICE, ports=(SlicePort("http", 53, "UDP"), SlicePort("tcp", 53, "TCP")))


def stale(compiler: ServiceCompiler) -> list[tuple[int | None, str, int, int]]:
    return [(m.protocol, m.reply.src, m.reply.src_port, id_of(m.mark[0])) for m in compiler.stale_flows() if m.mark]


def test_udp_flows_to_a_lost_endpoint_are_told_once() -> None:
    made = Compiled(DNS, DNS_SLICE)
    assert stale(made.compiler) == []
    made.put(replace(DNS_SLICE, endpoints=DNS_SLICE.endpoints[:1]))
    assert stale(made.compiler) == [(17, "10.244.1.2", 53, 1)]
    assert stale(made.compiler) == []
    made.apply(Change(DNS.meta.key("Service"), None))
    assert stale(made.compiler) == [(17, "10.244.0.2", 53, 1)]


def test_udp_flows_to_an_endpoint_that_still_answers_are_left_alone() -> None:
    made = Compiled(DNS, DNS_SLICE)
    leaving = replace(DNS_SLICE.endpoints[1], ready=False, serving=True, terminating=True)
    made.put(replace(DNS_SLICE, endpoints=(DNS_SLICE.endpoints[0], leaving)))
    assert stale(made.compiler) == []
    made.put(replace(DNS_SLICE, endpoints=()))
    made.put(DNS_SLICE)
    assert stale(made.compiler) == []


def test_udp_endpoints_that_went_while_the_agent_was_down_are_noticed() -> None:
    first = Compiled(DNS, DNS_SLICE)
    again = Compiled()
    again.compiler = ServiceCompiler("here", ())
    again.compiler.learn(first.elements)
    again.put(DNS, replace(DNS_SLICE, endpoints=DNS_SLICE.endpoints[:1]))
    assert stale(again.compiler) == [(17, "10.244.1.2", 53, 1)]
    gone = ServiceCompiler("here", ())
    gone.learn(first.elements)
    gone.update(World(), World(), frozenset())
    assert [ip for _, ip, _, _ in stale(gone)] == ["10.244.0.2", "10.244.1.2"]


def opened(compiler: ServiceCompiler) -> list[tuple[str, int]]:
    """Frontends past which flows are to be forgotten."""
    return [(m.orig.dst, m.orig.dst_port) for m in compiler.stale_flows() if m.orig.dst_port and m.orig.dst == m.reply.src]


def test_udp_flows_past_a_new_frontend_are_forgotten() -> None:
    made = Compiled()
    made.put(DNS, DNS_SLICE)
    assert opened(made.compiler) == [("10.96.0.10", 53)], "a client may have asked before"
    made.put(replace(DNS_SLICE, endpoints=()), replace(DNS, ports=(*DNS.ports, replace(DNS.ports[0], port=54, node_port=30054))))
    assert opened(made.compiler) == [("10.96.0.10", 54), ("", 30054)]
    again = ServiceCompiler("here", ())
    again.learn(made.elements)
    late = replace(DNS, meta=Meta("late", "shop"), cluster_ips=("10.96.0.11",))
    again.update(World(), made.world.apply(changes(late), 9)[0], frozenset({*made.world.objects, late.meta.key("Service")}))
    assert opened(again) == [("10.96.0.11", 53)], "also one that came while nobody watched"
    fresh = Compiled(DNS, DNS_SLICE)
    assert opened(fresh.compiler) == [], "a node without rules has no clients"


def test_source_ranges_guard_load_balancer_addresses_alone() -> None:
    public = replace(WEB, type="LoadBalancer", load_balancer_ips=("203.0.113.1",), external_ips=("203.0.113.2",))
    free = Compiled(public, SLICE)
    assert not [slot for slot in free.elements if slot.set.startswith(("svc_guarded", "svc_allowed"))]
    made = Compiled(replace(public, source_ranges=("192.0.2.0/25", "192.0.2.128/25", "10.0.0.0/8", "10.1.0.0/16")), SLICE)
    [guard] = [slot for slot in made.elements if slot.set.startswith("svc_guarded")]
    assert (guard.set, guard.key) == ("svc_guarded4", ("203.0.113.1", "tcp", 80))
    allowed = sorted((slot.key for slot in made.elements if slot.set == "svc_allowed4"), key=repr)
    number = made.elements[guard][0]
    assert allowed == [(number, Range("10.0.0.0", "10.255.255.255")), (number, Range("192.0.2.0", "192.0.2.255"))]
    assert id_of(int(number)) == id_of(made.trace("203.0.113.1").mark)


def test_a_node_that_changes_its_zone_prefers_other_endpoints() -> None:
    near, far = SLICE.endpoints
    hinted = replace(SLICE, endpoints=(replace(near, for_zones=("a",)), replace(far, for_zones=("b",))))
    made = Compiled(WEB, hinted)
    assert made.trace("10.96.0.10").shares == BOTH
    for zone, wanted in (("a", "10.244.0.2"), ("b", "10.244.1.2")):
        made.put(Node(Meta("here", "", {"topology.kubernetes.io/zone": zone})))
        assert made.trace("10.96.0.10").shares == {(wanted, 8080): 1}
