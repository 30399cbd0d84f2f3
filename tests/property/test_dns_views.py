"""What a worker's table shows to an asker is what tenants and policies say, read straight off the documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import dns.message
import dns.rcode
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_policy_compiler import ADDRESSES
from tests.property.test_policy_compiler import changes as policy_world

from fairway_core.clock import FakeClock
from fairway_core.keys import Key
from fairway_core.model import (
    Attachment,
    Endpoint,
    EndpointSlice,
    Export,
    Meta,
    Node,
    Pod,
    Service,
    ServicePort,
    SlicePort,
    Tenant,
    family_of,
)
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.compile import ZoneCompiler
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.names import reverse_name
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, Delta, End, decode, encode
from fairway_dns.resolver import Resolver
from fairway_dns.table import Moved, Table
from fairway_dns.viewcompile import ViewCompiler, ViewRules
from fairway_dns.views import Fact
from fairway_dns.visibility import endpoints
from fairway_dns.zone import Record, Zone, ZoneDelta
from fairway_policy.compiler import PolicyCompiler
from fairway_policy.verdict import Flow, judge

Z = "cluster.local"
NAMESPACES = ("shop", "payments")
ANYTHING = [("ICMP", 0), *((protocol, port) for protocol in ("TCP", "UDP", "SCTP") for port in (80, 81, 8080, 9000))]
"""Enough to find out whether two permits of the policies below have anything in common."""
STRANGER = "10.0.0.200"
NODE_IP = "192.0.2.1"


@st.composite
def tenant_changes(draw: st.DrawFn) -> Change:
    meta = Meta(draw(st.sampled_from(("acme", "beta"))))
    if draw(st.integers(0, 3)) == 0:
        return Change(meta.key("Tenant"), None)
    labels = draw(st.sampled_from(({}, {"app": "web"})))
    exports = draw(st.sampled_from(((), (Export(("web",)),), (Export(None, selector_from_labels({"app": "web"}), ("shop",)),))))
    return Change(
        meta.key("Tenant"),
        Tenant(
            meta, tuple(draw(st.sets(st.sampled_from(NAMESPACES)))), selector_from_labels(labels) if labels else None, exports
        ),
    )


@st.composite
def service_changes(draw: st.DrawFn) -> Change:
    meta = Meta(
        draw(st.sampled_from(("web", "api"))), draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(({}, {"app": "web"})))
    )
    number = NAMESPACES.index(meta.namespace) * 2 + (meta.name == "web")
    if draw(st.integers(0, 5)) == 0:
        return Change(meta.key("Service"), None)
    ports = tuple(
        draw(st.lists(st.sampled_from((ServicePort(80, "TCP", "http"), ServicePort(53, "UDP", "dns", 81))), unique=True))
    )
    if draw(st.booleans()):
        return Change(meta.key("Service"), Service(meta, cluster_ips=(f"10.96.0.{number}", f"fd00:96::{number}"), ports=ports))
    return Change(meta.key("Service"), Service(meta, headless=True, ports=ports))


@st.composite
def slice_changes(draw: st.DrawFn) -> Change:
    service = draw(st.sampled_from(("web", "api")))
    meta = Meta(f"{service}-{draw(st.sampled_from('ab'))}", draw(st.sampled_from(NAMESPACES)))
    if draw(st.integers(0, 4)) == 0:
        return Change(meta.key("EndpointSlice"), None)
    family = draw(st.sampled_from((4, 6)))
    pool = [pair[family == 6] for pair in ADDRESSES] + [["192.0.2.1", "192.0.2.9"], ["2001:db8::1"]][family == 6]
    ips = draw(st.lists(st.sampled_from(pool), max_size=3, unique=True))
    ports = (SlicePort("http", 8080), SlicePort("dns", 0, "UDP"))
    made = tuple(Endpoint((ip,), ready=draw(st.booleans())) for ip in ips)
    return Change(meta.key("EndpointSlice"), EndpointSlice(meta, service, family, made, ports))


@st.composite
def attachment_changes(draw: st.DrawFn) -> Change:
    """The attachment of a pod of the policy world has the addresses that the test gives it at the end of each step."""
    namespace, name = draw(st.sampled_from(NAMESPACES)), draw(st.sampled_from(("one", "two", "three")))
    return Change(
        Key("Attachment", "", f"{namespace}-{name}"), attachment(namespace, name, ()) if draw(st.integers(0, 3)) else None
    )


def attachment(namespace: str, name: str, ips: tuple[str, ...]) -> Attachment:
    meta = Meta(f"{namespace}-{name}")
    return Attachment(meta, "net", meta.name, "eth0", "", namespace, name, "fwb0", "02:00:00:00:00:01", ips)


steps = st.lists(
    st.lists(
        st.one_of(policy_world, policy_world, tenant_changes(), service_changes(), slice_changes(), attachment_changes()),
        min_size=1,
        max_size=5,
    ),
    min_size=1,
    max_size=6,
)


class Node1:
    """A node without kernel and sockets: World, policy, names and one worker's table behind the frames of the feed."""

    def __init__(self, visibility: str) -> None:
        self.world = World(derive_endpoints=False)
        self.policy = PolicyCompiler()
        self.zone = ZoneCompiler(Z, ("169.254.20.10",), scoped=visibility != "all")
        reach = self.policy.reach() if visibility == "policy" else None
        self.views = ViewCompiler(ViewRules(visibility, False, "n1", ("169.254.20.10",)), reach)
        self.visibility = visibility
        self.records: set[Record] = set()
        self.facts: set[Fact] = set()
        self.prepared = Prepared()
        self.table = Table(lambda: Zone((Z, f"svc.{Z}", f"pod.{Z}")), self._moved)
        clock = FakeClock()
        authorities = standard_authorities(Z, ("10.96.0.0/16", "10.0.0.0/24", "fd00::/16"))
        log = logging.getLogger("test")
        parts = authorities, Cache(clock), Forwarder((), (), clock), Counters(), log
        self.resolver = Resolver(self.table, *parts, self.prepared)
        self._take(Begin(0, self.views.scoped), End(0))

    def _moved(self, moved: Moved) -> None:
        self.prepared.follow(self.table, moved)

    def _take(self, *frames: Begin | Chunk | End | Delta) -> None:
        for frame in frames:
            self.table.take(decode(encode(frame)[4:]))

    def feed(self, batch: list[Change]) -> None:
        after, touched = self.world.apply(batch, self.world.revision + 1)
        after, more = after.apply(list(_attached(after)), after.revision)
        touched |= more
        self.policy.update(self.world, after, touched)
        delta = self.zone.update(self.world, after, touched)
        delta = ZoneDelta(delta.add, delta.remove, self.views.update(self.world, after, touched))
        self.world = after
        self.records = self.records - delta.remove | delta.add
        self.facts = self.facts - delta.views.remove | delta.views.add
        self._take(Delta(delta, after.revision))

    def restart(self) -> None:
        """The worker takes everything anew."""
        facts = frozenset(self.facts)
        self._take(
            Begin(1, self.views.scoped), Chunk(frozenset(), facts), Chunk(frozenset(self.records)), End(self.world.revision)
        )

    def ask(self, client: str, name: str, rtype: str) -> dns.message.Message:
        """The answer over the way a datagram takes: from what is prepared, if it is."""
        wire = dns.message.make_query(name, rtype).to_wire()
        packed = ip_address(client).packed
        asker, fresh = self.table.views.asker(packed), self.resolver.fresh
        assert fresh is not None
        found = self.prepared.find(asker, wire, 0.0) or fresh.reply(asker, wire)
        reply = wire[:2] + found if found is not None else self.resolver.handle(wire, False, packed)
        assert isinstance(reply, bytes)
        return dns.message.from_wire(reply)

    def denied(self, client: str, name: str, rtype: str) -> bool:
        twice = [self.ask(client, name, rtype) for _ in range(2)]
        assert len({(one.rcode(), len(one.answer), len(one.authority)) for one in twice}) == 1
        found = twice[0]
        if found.rcode() == dns.rcode.NXDOMAIN:
            assert [rrset.rdtype for rrset in found.authority] == [6]
            return True
        return False


def _attached(world: World) -> Iterator[Change]:
    """Attachments with the addresses of their pods, or none where the pod has none."""
    for item in world.attachments():
        pod = world.pod(item.pod_namespace, item.pod_name)
        mine = pod.ips if pod is not None and pod.on_pod_network and all(world.pod_of_ip(ip) == pod for ip in pod.ips) else ()
        yield Change(item.meta.key("Attachment"), attachment(item.pod_namespace, item.pod_name, mine))


def exists(world: World, visibility: str, pod: Pod | None, service: Service) -> bool:
    """The oracle: tenants off the documents, rights by the reference evaluator, one connection at a time."""
    namespace, name = service.meta.namespace, service.meta.name
    owners = sorted(
        (tenant for tenant in world.all(Tenant) if tenant.claims(namespace, world.namespace_labels(namespace))),
        key=lambda tenant: tenant.meta.name,
    )
    if owners and not owners[0].exports_service(namespace, name, service.meta.labels):
        there = pod.meta.namespace if pod is not None else ""
        mine = [t.meta.name for t in world.all(Tenant) if there and t.claims(there, world.namespace_labels(there))]
        if sorted(mine)[:1] != [owners[0].meta.name]:
            return False
    led = set(endpoints(service, world.slices_of(namespace, name)))
    if visibility == "tenant" or pod is None or not led:
        return True
    # What leads to this very node is open to each of its pods.
    return any(ip == NODE_IP for ip, _, _ in led) or any(
        judge(world, Flow(source, ip, some, other)).allowed
        for ip, protocol, port in led
        for source in pod.ips
        if family_of(source) == family_of(ip)
        for some, other in ([(protocol, port)] if protocol else ANYTHING)
    )


def askers(world: World) -> Iterator[tuple[str, Pod | None]]:
    yield STRANGER, None
    for item in world.attachments():
        for ip in item.ips:
            yield ip, world.pod(item.pod_namespace, item.pod_name)


@settings(max_examples=100, deadline=None)
@given(steps, st.sampled_from(("tenant", "policy")), st.booleans())
def test_names_exist_for_whom_the_documents_say(history: list[list[Change]], visibility: str, restart: bool) -> None:
    node = Node1(visibility)
    own = Node(Meta("n1"), (NODE_IP,))
    node.feed([Change(own.meta.key("Node"), own)])
    for batch in history:
        node.feed([_placed(change) for change in batch])
        _check(node)
    if restart:
        node.restart()
        _check(node)


def _placed(change: Change) -> Change:
    """Pods run on the node that answers."""
    if isinstance(change.value, Pod):
        return Change(change.key, replace(change.value, node_name="n1"))
    return change


def _check(node: Node1) -> None:
    world = node.world
    shown = {record.name for record in node.records}
    for client, pod in askers(world):
        if node.visibility == "policy" and pod is None:
            continue  # What a stranger may is tested for itself.
        for namespace in NAMESPACES:
            visible: list[bool | None] = []
            for name in ("web", "api"):
                service = world.service(namespace, name)
                if pod is not None and service is not None and not _shares_families(world, pod, service):
                    visible.append(None)
                    continue
                full = f"{name}.{namespace}.svc.{Z}"
                expected = service is not None and full in shown and exists(world, node.visibility, pod, service)
                assert node.denied(client, full, "A") is not expected, (client, full)
                assert node.denied(client, f"_tcp.{full}", "A") is (not expected or not _has_tcp(node, full)), (client, full)
                visible.append(expected)
                if service is not None:
                    for ip in service.cluster_ips:
                        assert node.denied(client, reverse_name(ip), "PTR") is not expected
            if None not in visible:
                assert node.denied(client, f"{namespace}.svc.{Z}", "A") is not any(visible)
        assert not node.denied("127.0.0.1", next(iter(shown)), "A")


def _shares_families(world: World, pod: Pod, service: Service) -> bool:
    """Whether the evaluator can judge all that the service leads to: a connection needs two addresses of one family."""
    led = endpoints(service, world.slices_of(service.meta.namespace, service.meta.name))
    return {family_of(ip) for ip, _, _ in led} <= {family_of(ip) for ip in pod.ips}


def _has_tcp(node: Node1, full: str) -> bool:
    return any(record.name.endswith(f"._tcp.{full}") for record in node.records)
