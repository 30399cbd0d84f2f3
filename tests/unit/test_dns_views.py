"""Views: the steps of policy that change one name for one asker, and facts in any order."""

from __future__ import annotations

from ipaddress import ip_address
from itertools import permutations

import pytest
from tests.property.test_dns_views import Node1, attachment

from fairway_agent.disputes import refuse_disputes
from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.model import (
    Endpoint,
    EndpointSlice,
    Meta,
    NetworkPolicy,
    Node,
    Pod,
    PodPeer,
    Rule,
    Service,
    ServicePort,
    SlicePort,
    Tenant,
)
from fairway_core.selectors import EVERYTHING, selector_from_labels
from fairway_core.world import Change, World
from fairway_dns.protocol import ProtocolError, decode, encode
from fairway_dns.viewcompile import ViewCompiler, ViewRules
from fairway_dns.views import Fact, Sight, ViewDelta, Views

FRONT, WEB, STRANGER = "10.0.0.1", "10.0.0.2", "10.0.0.200"
NAME = "web.payments.svc.cluster.local"
PTR = "1.0.96.10.in-addr.arpa"


def put(item: Pod | Service | EndpointSlice | NetworkPolicy | Tenant | Node) -> Change:
    return Change(item.meta.key(type(item).__name__), item)


def pod(name: str, namespace: str, ip: str, **labels: str) -> list[Change]:
    made = Pod(Meta(name, namespace, labels), (ip,), node_name="n1", phase="Running")
    return [put(made), Change(Key("Attachment", "", f"{namespace}-{name}"), attachment(namespace, name, (ip,)))]


def ingress(name: str, *rules: Rule) -> Change:
    return put(NetworkPolicy(Meta(name, "payments"), EVERYTHING, frozenset({"Ingress"}), rules))


def scene(visibility: str = "policy") -> Node1:
    """`front` in shop, `web` in payments behind a service."""
    node = Node1(visibility)
    web = Service(Meta("web", "payments"), cluster_ips=("10.96.0.1",), ports=(ServicePort(80, "TCP", "http"),))
    led = EndpointSlice(Meta("web-a", "payments"), "web", 4, (Endpoint((WEB,)),), (SlicePort("http", 8080),))
    node.feed([*pod("front", "shop", FRONT, app="front"), *pod("web", "payments", WEB), put(web), put(led)])
    return node


def test_a_policy_hides_names_and_the_next_one_shows_them_again() -> None:
    node = scene()
    assert not node.denied(FRONT, NAME, "A")
    node.feed([ingress("closed")])
    for name, rtype in (
        (NAME, "A"),
        (NAME, "AAAA"),
        (NAME, "ANY"),
        (PTR, "PTR"),
        (f"_http._tcp.{NAME}", "SRV"),
        (f"_tcp.{NAME}", "A"),
    ):
        assert node.denied(FRONT, name, rtype), (name, rtype)
    assert node.denied(FRONT, "payments.svc.cluster.local", "A")
    assert node.denied(STRANGER, NAME, "A")
    assert not node.denied(WEB, NAME, "A"), "a pod sees what it answers for itself"
    assert not node.denied("169.254.20.10", NAME, "A"), "the node sees everything"
    # The second policy changes nothing about what `web` allows everybody: only the pair is another.
    node.feed([ingress("front", Rule((PodPeer(EVERYTHING, selector_from_labels({"app": "front"})),)))])
    assert not node.denied(FRONT, NAME, "A")
    assert node.denied(STRANGER, NAME, "A")
    node.feed([ingress("front", Rule((PodPeer(EVERYTHING, selector_from_labels({"app": "other"})),)))])
    assert node.denied(FRONT, NAME, "A")
    node.feed([Change(Key("NetworkPolicy", "payments", name), None) for name in ("front", "closed")])
    assert not node.denied(FRONT, NAME, "A")


def test_a_label_that_a_policy_looks_at_hides_a_name_although_no_endpoint_changes() -> None:
    node = scene()
    node.feed([put(NetworkPolicy(Meta("closed", "payments"), selector_from_labels({"app": "web"}), frozenset({"Ingress"})))])
    assert not node.denied(FRONT, NAME, "A")
    node.feed(pod("web", "payments", WEB, app="web"))
    assert node.denied(FRONT, NAME, "A")
    node.feed(pod("web", "payments", WEB, app="db"))
    assert not node.denied(FRONT, NAME, "A")


def test_what_leads_nowhere_or_to_the_node_is_nothing_to_judge() -> None:
    node = scene()
    closed = NetworkPolicy(Meta("closed", "shop"), EVERYTHING, frozenset({"Egress"}))
    node.feed([put(closed)])
    assert node.denied(FRONT, NAME, "A")
    node.feed([Change(Key("EndpointSlice", "payments", "web-a"), None)])
    assert not node.denied(FRONT, NAME, "A")
    led = EndpointSlice(Meta("web-a", "payments"), "web", 4, (Endpoint(("192.0.2.1",)),), (SlicePort("http", 8080),))
    node.feed([put(led)])
    assert node.denied(FRONT, NAME, "A")
    node.feed([put(Node(Meta("n1"), ("192.0.2.1",)))])
    assert not node.denied(FRONT, NAME, "A")


def test_an_alias_does_not_lead_to_a_hidden_name() -> None:
    node = scene()
    node.feed([put(Service(Meta("alias", "shop"), type="ExternalName", external_name=NAME)), ingress("closed")])
    hidden = node.ask(FRONT, "alias.shop.svc.cluster.local", "A")
    node.feed([put(Service(Meta("alias", "shop"), type="ExternalName", external_name=f"no{NAME}"))])
    absent = node.ask(FRONT, "alias.shop.svc.cluster.local", "A")
    for found in (hidden, absent):
        assert (found.rcode(), len(found.answer), found.answer[0].rdtype.name) == (3, 1, "CNAME")
    assert len(node.ask("169.254.20.10", "alias.shop.svc.cluster.local", "A").authority) == 1


def test_one_address_of_two_services_names_the_visible_one() -> None:
    node = scene("tenant")
    slices = [
        EndpointSlice(Meta(f"{name}-a", space), name, 4, (Endpoint((WEB,), hostname="h"),), ())
        for name, space in (("one", "shop"), ("two", "payments"))
    ]
    services = [Service(Meta(name, space), headless=True) for name, space in (("one", "shop"), ("two", "payments"))]
    node.feed([put(Tenant(Meta("beta"), ("payments",))), *map(put, slices), *map(put, services)])
    name = "2.0.0.10.in-addr.arpa"
    seen = {client: {rr.to_text() for rrset in node.ask(client, name, "PTR").answer for rr in rrset} for client in (FRONT, WEB)}
    assert seen[FRONT] == {"h.one.shop.svc.cluster.local."}
    assert seen[WEB] == {"h.one.shop.svc.cluster.local.", "h.two.payments.svc.cluster.local."}
    assert node.denied(FRONT, "10-0-0-2.payments.pod.cluster.local", "A")
    assert not node.denied(WEB, "10-0-0-2.payments.pod.cluster.local", "A")


def test_with_all_nothing_of_this_is_sent_or_kept() -> None:
    node = scene("all")
    assert node.facts == set()
    assert all(not record.scope for record in node.records)
    assert not node.table.zone.scoped
    assert node.table.seen(Sight()) is node.table.zone
    assert not node.prepared.apart


def test_with_completion_only_who_asks_is_sent() -> None:
    views = ViewCompiler(ViewRules("all", True, "n1"))
    world, touched = World().apply(pod("front", "shop", FRONT), 1)
    facts = views.update(World(), world, touched).add
    assert {fact.kind for fact in facts} == {"address", "view"}
    assert {fact.values for fact in facts if fact.kind == "view"} == {("shop", "")}


def test_a_view_that_nobody_has_any_more_takes_its_facts_along() -> None:
    node = scene()
    allowed = Rule((PodPeer(EVERYTHING, selector_from_labels({"app": "front"})),))
    confined = NetworkPolicy(Meta("confined", "payments"), EVERYTHING, frozenset({"Egress"}))
    node.feed([ingress("closed", allowed), put(confined)])
    assert {fact.kind for fact in node.facts} == {"address", "view", "except", "own", "scope", "closed", "confined"}
    gone = [Change(Key("Attachment", "", f"{space}-{name}"), None) for name, space in (("front", "shop"), ("web", "payments"))]
    node.feed(gone)
    assert {fact.kind for fact in node.facts} == {"address", "view", "scope", "closed"}
    node.feed([Change(Key("Service", "payments", "web"), None)])
    assert {fact.kind for fact in node.facts} == {"address", "view"}


def test_facts_may_come_in_any_order() -> None:
    facts = [
        Fact("view", "v", ("shop", "acme")),
        Fact("address", FRONT, ("v",)),
        Fact("except", "v", ("g",)),
        Fact("own", "v", ("a/b",)),
    ]
    for order in permutations(facts):
        views = Views()
        for fact in order:
            views.apply(ViewDelta(frozenset({fact})))
        asker = views.asker(bytes([10, 0, 0, 1]))
        assert (asker.namespace, asker.sight) == (b"shop", Sight("acme", False, frozenset({"g"}), frozenset({"a/b"})))
        for fact in reversed(order):
            views.apply(ViewDelta(remove=frozenset({fact})))
        assert views.asker(bytes([10, 0, 0, 1])) is views.anybody
        assert views.facts == set()


@pytest.mark.parametrize("row", [["view", "v", "a"], ["nothing", "v", "a"], ["address", "x"], []])
def test_what_is_no_fact_is_refused(row: list[str]) -> None:
    with pytest.raises(ProtocolError):
        decode(('["chunk",[],[' + str(row).replace("'", '"') + "]]").encode())


def test_the_state_of_an_older_worker_is_read_and_known_to_say_nothing_of_views() -> None:
    begin = decode(b'["begin",7]')
    assert begin == decode(encode(begin)[4:])
    assert begin.scoped is False  # type: ignore[union-attr]
    decode(b'["chunk",[["a.x","A","10.0.0.1"]]]')
    decode(b'["delta",8,[],[]]')


def test_a_second_tenant_of_a_namespace_is_refused_by_name() -> None:
    def document(name: str, *namespaces: str) -> dict[str, object]:
        spec = {"namespaces": list(namespaces)}
        return {"apiVersion": "fairway.dev/v1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec}

    world, _ = World().apply([put(Tenant(Meta("acme"), ("shop",)))], 1)
    refuse_disputes(world, {Key("Tenant", "", "beta"): document("beta", "pay")})
    with pytest.raises(UserError, match="namespace shop would belong to Tenant/acme and Tenant/beta"):
        refuse_disputes(world, {Key("Tenant", "", "beta"): document("beta", "pay", "shop")})
    both = {Key("Tenant", "", "beta"): document("beta", "shop"), Key("Tenant", "", "acme"): document("acme", "pay")}
    refuse_disputes(world, both)


class NameRules:
    """Egress rules as a test says them."""

    def __init__(self) -> None:
        self.now: dict[int, frozenset[str]] = {}
        self.of: dict[Key, frozenset[int]] = {}
        self.changed: set[Key] = set()

    def patterns(self) -> dict[int, frozenset[str]]:
        return self.now

    def scopes(self, pod: Key) -> frozenset[int]:
        return self.of.get(pod, frozenset())

    def take_changes(self) -> frozenset[Key]:
        found, self.changed = frozenset(self.changed), set()
        return found


@pytest.mark.parametrize("completion", [True, False])
def test_egress_scopes_of_pods_reach_their_addresses(completion: bool) -> None:
    rules, world, views = NameRules(), World(), Views()
    compiler = ViewCompiler(ViewRules(completion=completion), egress=rules)
    front, other = Key("Pod", "shop", "front"), Key("Pod", "shop", "other")

    def step(*changes: Change) -> None:
        nonlocal world
        after, touched = world.apply(list(changes), world.revision + 1)
        views.apply(compiler.update(world, after, touched))
        world = after

    def watched(address: str) -> set[tuple[int, str]]:
        watch = views.asker(ip_address(address).packed).sight.watch
        return set(watch.patterns) if watch is not None else set()

    step(*pod("front", "shop", FRONT), *pod("other", "shop", WEB))
    before = set(views.facts)
    rules.of, rules.now, rules.changed = {front: frozenset({7, 8})}, {7: frozenset({"a.example", "*.b"})}, {front}
    step()
    assert (watched(FRONT), watched(WEB), views.watching) == ({(7, "a.example"), (7, "*.b")}, set(), 2)
    rules.now = {7: frozenset({"a.example"}), 8: frozenset({"c"})}
    step()
    assert watched(FRONT) == {(7, "a.example"), (8, "c")}
    rules.of, rules.changed = {other: frozenset({8})}, {front, other}
    step()
    assert (watched(FRONT), watched(WEB)) == (set(), {(8, "c")})
    rules.of, rules.now, rules.changed = {}, {}, {other}
    step()
    assert views.facts == before
