"""The compiled tables mean what the documents mean, however the world came about."""

from __future__ import annotations

import itertools
from collections import Counter

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fairway_core.delta import DeltaTracker
from fairway_core.model import IpBlock, Meta, Namespace, NetworkPolicy, Pod, PodPeer, PodPort, PolicyPort, Rule
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.selectors import Requirement, Selector
from fairway_core.world import Change, World
from fairway_kernel.nft.objects import ElementValue, Slot
from fairway_policy.compiler import PolicyCompiler
from fairway_policy.interpret import Interpreter, Packet
from fairway_policy.verdict import Flow, judge

NAMESPACES = ("shop", "payments")
ADDRESSES = tuple((f"10.0.0.{n}", f"fd00::{n}") for n in range(1, 5))
OUTSIDE = ("192.0.2.1", "10.0.0.200", "2001:db8::1")
PORTS = (("TCP", 80), ("TCP", 81), ("TCP", 8080), ("UDP", 80), ("SCTP", 80), ("ICMP", 0))
CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "192.0.2.0/24", "::/0", "fd00::/126", "2001:db8::/32")

labels = st.dictionaries(st.sampled_from(("app", "tier")), st.sampled_from(("web", "api")), max_size=2)
requirements = st.one_of(
    st.builds(
        lambda key, operator, values: Requirement(key, operator, tuple(sorted(values))),
        st.sampled_from(("app", "tier")),
        st.sampled_from(("In", "NotIn")),
        st.sets(st.sampled_from(("web", "api")), min_size=1),
    ),
    st.builds(Requirement, st.sampled_from(("app", "tier")), st.sampled_from(("Exists", "DoesNotExist"))),
)
selectors = st.lists(requirements, max_size=2).map(lambda items: Selector(tuple(sorted(set(items)))))
namespace_selectors = st.one_of(
    selectors,
    st.sampled_from(NAMESPACES).map(lambda name: Selector((Requirement("kubernetes.io/metadata.name", "In", (name,)),))),
)
pod_peers = st.one_of(
    st.builds(PodPeer, st.none(), selectors), st.builds(PodPeer, namespace_selectors, st.one_of(st.none(), selectors))
)
blocks = st.sampled_from(CIDRS).flatmap(
    lambda cidr: st.builds(IpBlock, st.just(cidr), st.sets(st.sampled_from(CIDRS), max_size=2).map(sorted).map(tuple))
)
policy_ports = st.one_of(
    st.builds(
        PolicyPort, st.sampled_from(("TCP", "UDP", "SCTP")), st.one_of(st.none(), st.sampled_from((80, 8080, "http", "dns")))
    ),
    st.builds(PolicyPort, st.just("TCP"), st.sampled_from((1, 80)), st.sampled_from((80, 81, 9000))),
)
rules = st.builds(
    Rule,
    st.lists(st.one_of(pod_peers, blocks), max_size=2).map(tuple),
    st.lists(policy_ports, max_size=2).map(tuple),
)
rule_lists = st.lists(rules, max_size=2).map(tuple)


@st.composite
def pod_changes(draw: st.DrawFn) -> Change:
    meta = Meta(draw(st.sampled_from(("one", "two", "three"))), draw(st.sampled_from(NAMESPACES)), draw(labels))
    if draw(st.integers(0, 4)) == 0:
        return Change(meta.key("Pod"), None)
    named = st.builds(PodPort, st.sampled_from(("http", "dns")), st.sampled_from((80, 81, 8080)), st.sampled_from(("TCP", "UDP")))
    pod = Pod(
        meta=meta,
        ips=draw(st.one_of(st.sampled_from(ADDRESSES), st.sampled_from(ADDRESSES).map(lambda pair: pair[:1]))),
        ports=tuple(draw(st.lists(named, max_size=2))),
        host_network=draw(st.integers(0, 9)) == 0,
        phase=draw(st.sampled_from(("Running", "Running", "Running", "Succeeded"))),
        terminating=draw(st.integers(0, 3)) == 0,
    )
    return Change(meta.key("Pod"), pod)


@st.composite
def policy_changes(draw: st.DrawFn) -> Change:
    meta = Meta(draw(st.sampled_from(("first", "second"))), draw(st.sampled_from(NAMESPACES)))
    if draw(st.integers(0, 4)) == 0:
        return Change(meta.key("NetworkPolicy"), None)
    types = draw(st.sampled_from(((INGRESS,), (EGRESS,), (INGRESS, EGRESS))))
    policy = NetworkPolicy(meta, draw(selectors), frozenset(types), draw(rule_lists), draw(rule_lists))
    return Change(meta.key("NetworkPolicy"), policy)


@st.composite
def namespace_changes(draw: st.DrawFn) -> Change:
    name = draw(st.sampled_from(NAMESPACES))
    key = Meta(name).key("Namespace")
    if draw(st.booleans()):
        return Change(key, None)
    return Change(key, Namespace(Meta(name, "", {**draw(labels), "kubernetes.io/metadata.name": name})))


changes = st.one_of(pod_changes(), pod_changes(), policy_changes(), policy_changes(), namespace_changes())
histories = st.lists(st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=6)
SETTINGS = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


class Machine:
    """A compiler with a tracker behind it, fed one batch of changes after the other."""

    def __init__(self) -> None:
        self.world = World(derive_endpoints=False)
        self.compiler = PolicyCompiler()
        self.tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()
        self.tightened = False

    def feed(self, batch: list[Change]) -> None:
        after, touched = self.world.apply(batch, self.world.revision + 1)
        for owner, elements in self.compiler.update(self.world, after, touched).items():
            self.tracker.declare(owner, elements)
        delta = self.tracker.pending()
        self.tightened = self.compiler.tightens(delta)
        self.tracker.committed(delta)
        self.world = after


def from_scratch(world: World, machine: Machine | None = None) -> Machine:
    machine = machine or Machine()
    machine.feed([Change(key, world.objects[key]) for key in sorted(world.objects)])
    return machine


def packets() -> list[Packet]:
    places = [address for pair in ADDRESSES[:4] for address in pair] + list(OUTSIDE)
    ends = [(a, b) for a, b in itertools.product(places, places) if (":" in a) == (":" in b)]
    return [Packet(a, b, protocol, port) for a, b in ends for protocol, port in PORTS]


PACKETS = packets()


def accepted(machine: Machine) -> list[bool]:
    interpreter = Interpreter(machine.tracker.actual)
    return [interpreter.denied_by(packet) is None for packet in PACKETS]


@SETTINGS
@given(histories)
def test_tables_agree_with_the_documents(history: list[list[Change]]) -> None:
    machine = Machine()
    for batch in history:
        machine.feed(batch)
    interpreter = Interpreter(machine.tracker.actual)
    for packet in PACKETS:
        judgement = judge(machine.world, Flow(packet.source, packet.destination, packet.protocol, packet.port))
        denied = interpreter.denied_by(packet)
        assert (denied is None) == judgement.allowed, (packet, denied, judgement)
        if denied is not None:
            assert not (judgement.egress if denied == EGRESS else judgement.ingress).allowed


@SETTINGS
@given(histories)
def test_history_leaves_no_trace(history: list[list[Change]]) -> None:
    machine = Machine()
    for batch in history:
        machine.feed(batch)
    scratch = from_scratch(machine.world)
    sizes = Counter(slot.set for slot in machine.tracker.actual)
    assert sizes == Counter(slot.set for slot in scratch.tracker.actual)
    assert accepted(machine) == accepted(scratch)


@SETTINGS
@given(histories)
def test_a_change_that_takes_rights_away_is_noticed(history: list[list[Change]]) -> None:
    machine = Machine()
    before = accepted(machine)
    for batch in history:
        machine.feed(batch)
        after = accepted(machine)
        lost = [packet for packet, was, now in zip(PACKETS, before, after, strict=True) if was and not now]
        assert machine.tightened or not lost, lost
        before = after


@SETTINGS
@given(histories)
def test_a_restarted_compiler_finds_nothing_to_change(history: list[list[Change]]) -> None:
    machine = Machine()
    for batch in history:
        machine.feed(batch)
    claims = Counter(ip for pod in machine.world.pods() if pod.on_pod_network for ip in pod.ips)
    assume(all(count == 1 for count in claims.values()))  # the number of a claim that lost is nowhere to be learnt
    successor = Machine()
    successor.tracker.observe(machine.tracker.actual)
    successor.compiler.learn(machine.tracker.actual)
    after, touched = successor.world.apply([Change(k, machine.world.objects[k]) for k in sorted(machine.world.objects)], 1)
    for owner, elements in successor.compiler.update(successor.world, after, touched).items():
        successor.tracker.declare(owner, elements)
    assert not successor.tracker.pending()
