"""Any history of services and endpoints leads every address to exactly its usable endpoints, in even shares."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.property.test_core_topology import naive

from fairway_core.delta import Delta, DeltaTracker
from fairway_core.endpoints import backends, usable
from fairway_core.keys import Key
from fairway_core.model import Endpoint, EndpointSlice, Meta, Node, Object, Service, ServicePort, SlicePort, family_of
from fairway_core.world import Change, World
from fairway_kernel.nft.objects import Elements, ElementValue, Slot
from fairway_proxy.compile import ServiceCompiler
from fairway_proxy.marks import AFFINITY_BIT, class_of, ct_mark_of
from fairway_proxy.slots import slot_count
from fairway_proxy.trace import Trace, trace

NAMES = ("a", "b", "c")
FRONTENDS = ("svc4", "svc6", "svc_nodeport4", "svc_nodeport6")
INSIDE = ("svc_inside4", "svc_inside6")
MARKED = ("eps4", "eps6", "eps_sticky4", "eps_sticky6", "svc_epid4", "svc_epid6", "svc_afftime")
NODE = "192.0.2.1"
PORTS = (
    ServicePort(80, "TCP", "web", 8080, 30080),
    ServicePort(80, "UDP", "dns", 53),
    ServicePort(443, "TCP", "tls", 8443),
)


def vips(name: str) -> tuple[str, str]:
    number = NAMES.index(name) + 1
    return f"10.96.0.{number}", f"fd00::{number}"


@st.composite
def services(draw: st.DrawFn) -> Service:
    name = draw(st.sampled_from(NAMES))
    count = draw(st.integers(0, 2))
    shared = draw(st.booleans())
    return Service(
        Meta(name, "shop"),
        type=draw(st.sampled_from(["ClusterIP", "NodePort", "ExternalName"])),
        cluster_ips=vips(name)[:count],
        headless=draw(st.integers(0, 5)) == 0,
        ports=tuple(draw(st.lists(st.sampled_from(PORTS), unique=True, max_size=3))),
        external_ips=("203.0.113.1",) if shared else (),
        affinity_seconds=draw(st.sampled_from([0, 0, 60, 10800])),
        internal_policy_local=draw(st.booleans()),
        external_policy_local=draw(st.booleans()),
    )


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    service, family = draw(st.sampled_from(NAMES)), draw(st.sampled_from([4, 6]))
    made = []
    numbers = st.integers(1, 6) | st.integers(1, 90)
    for number in draw(st.lists(numbers, max_size=8) | st.just(list(range(1, 71)))):
        ready, serving, terminating = draw(st.sampled_from([(1, 1, 0), (1, 1, 0), (0, 0, 0), (0, 1, 1), (0, 0, 1)]))
        address = f"10.244.0.{number}" if family == 4 else f"fd00:1::{number:x}"
        node = ("here", "there", "")[number % 3]
        zones = draw(st.sampled_from([("a",), ("b",), ("a",), ()]))
        made.append(Endpoint((address,), bool(ready), bool(serving), bool(terminating), node_name=node, for_zones=zones))
    ports = draw(
        st.lists(st.sampled_from([SlicePort("web", 8080), SlicePort("web", 0), SlicePort("dns", 53, "UDP")]), max_size=2)
    )
    name = f"{service}-{family}-{draw(st.integers(0, 1))}"
    return EndpointSlice(Meta(name, "shop"), service, family, tuple(made), tuple(ports))


def put(item: Object) -> Change:
    return Change(item.meta.key(type(item).__name__), item)


ZONES = st.sampled_from(["", "a", "b"]).map(
    lambda zone: put(Node(Meta("here", "", {"topology.kubernetes.io/zone": zone} if zone else {})))
)
DELETES = st.sampled_from(
    [Key("Service", "shop", name) for name in NAMES]
    + [Key("EndpointSlice", "shop", f"{name}-{family}-{part}") for name in NAMES for family in (4, 6) for part in (0, 1)]
).map(lambda key: Change(key, None))

HISTORY = st.lists(st.lists(services().map(put) | slices().map(put) | ZONES | DELETES, min_size=1, max_size=4), max_size=8)


class Machine:
    """A compiler with the applied elements, as the agent runs it."""

    def __init__(self) -> None:
        self.compiler = ServiceCompiler("here", ())
        self.tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Elements:
        for owner, elements in self.compiler.update(before, after, touched).items():
            self.tracker.declare(owner, elements)
        self.tracker.committed(self.tracker.pending())
        return self.tracker.actual


def expected(world: World, service: Service, port: ServicePort, address: str, local: bool) -> Trace:
    """Straight from the objects, without slots, ids or marks."""
    candidates = backends(world.slices_of("shop", service.meta.name), port, family_of(address))
    chosen = naive(candidates, "here", world.zone_of("here"), local)
    if not chosen:
        return Trace("drop" if local and usable(candidates) else "reject")
    return Trace("balance", {(b.ip, b.port): 1 for b in chosen}, service.affinity_seconds)


def agrees(found: Trace, wanted: Trace) -> bool:
    even = not found.shares or max(found.shares.values()) - min(found.shares.values()) <= 1
    complete = sum(found.shares.values()) == slot_count(len(wanted.shares))
    return (
        found.fate == wanted.fate
        and found.timeout == wanted.timeout
        and set(found.shares) == set(wanted.shares)
        and even
        and complete
    )


def check(world: World, elements: Elements) -> None:
    served = [s for s in world.services() if not s.headless and s.type != "ExternalName"]
    active = {ip for service in served for ip in service.cluster_ips}
    for name in NAMES:
        for address in vips(name):
            for port in PORTS:
                found = trace(elements, address, port.protocol.lower(), port.port, {NODE})
                assert found == trace(elements, address, port.protocol.lower(), port.port, {NODE}, inside=True)
                owner = next((s for s in served if address in s.cluster_ips and port in s.ports), None)
                if owner is None:
                    assert found.fate == ("reject" if address in active else "pass")
                else:
                    assert agrees(found, expected(world, owner, port, address, owner.internal_policy_local))
    for port in PORTS:
        owner = next((s for s in served if s.external_ips and port in s.ports), None)
        found = trace(elements, "203.0.113.1", port.protocol.lower(), port.port)
        if owner is None:
            assert found.fate == "pass"
        else:
            assert agrees(found, expected(world, owner, port, "203.0.113.1", owner.external_policy_local))
            inside = trace(elements, "203.0.113.1", port.protocol.lower(), port.port, inside=True)
            assert agrees(inside, expected(world, owner, port, "203.0.113.1", local=False))
    outside = next(
        (s for s in served if PORTS[0] in s.ports and 4 in {family_of(ip) for ip in s.cluster_ips or ("1.1.1.1",)}), None
    )
    found = trace(elements, NODE, "tcp", 30080, {NODE})
    assert (
        found.fate == "pass"
        if outside is None
        else agrees(found, expected(world, outside, PORTS[0], NODE, outside.external_policy_local))
    )
    if outside is not None:
        inside = trace(elements, NODE, "tcp", 30080, {NODE}, inside=True)
        assert agrees(inside, expected(world, outside, PORTS[0], NODE, local=False))


def check_nothing_left_over(elements: Elements) -> None:
    """Slots exist only for numbers in use, each number belongs to one service port, no slot lies beyond its class."""
    for slot in elements:
        if slot.set in ("eps4", "eps6"):
            mark, index = slot.key
            assert isinstance(mark, int) and isinstance(index, int) and index < class_of(mark)
        if slot.set in ("svc_epid4", "svc_epid6"):
            mark = slot.key[0]
            assert isinstance(mark, int) and mark & AFFINITY_BIT


@settings(max_examples=120, deadline=None)
@given(HISTORY)
def test_every_history_gives_the_meaning_of_its_last_world(history: list[list[Change]]) -> None:
    machine, world = Machine(), World()
    for revision, step in enumerate(history):
        after, touched = world.apply(step, revision + 1)
        elements = machine.update(world, after, touched)
        world = after
        check(world, elements)
    check_nothing_left_over(machine.tracker.actual)
    fresh = Machine().update(World(), world, frozenset(world.objects))
    assert len(fresh) == len(machine.tracker.actual)


def disturbs_traffic(delta: Delta[Slot, ElementValue], actual: Elements) -> set[Slot]:
    """Changed elements that packets can meet: not those of a service that lost all its frontends to another one."""
    frontends = {slot for slot in actual if slot.set in FRONTENDS}
    live = {ct_mark_of(int(actual[slot][0])) for slot in frontends}
    ways_in = [slot for slot in actual if slot.set in INSIDE and ct_mark_of(int(str(slot.key[0]))) in live]
    live |= {ct_mark_of(int(actual[slot][0])) for slot in ways_in}
    changed = {*delta.add, *delta.change, *delta.delete}
    return {
        slot
        for slot in changed
        if slot.set in FRONTENDS or (slot.set in (*MARKED, *INSIDE) and ct_mark_of(int(str(slot.key[0]))) in live)
    }


@settings(max_examples=60, deadline=None)
@given(HISTORY)
def test_a_restart_after_any_history_changes_nothing(history: list[list[Change]]) -> None:
    machine, world = Machine(), World()
    for revision, step in enumerate(history):
        after, touched = world.apply(step, revision + 1)
        machine.update(world, after, touched)
        world = after
    again = Machine()
    again.tracker.observe(machine.tracker.actual)
    again.compiler.learn(machine.tracker.actual)
    for owner, elements in again.compiler.update(World(), world, frozenset(world.objects)).items():
        again.tracker.declare(owner, elements)
    assert not disturbs_traffic(again.tracker.pending(), machine.tracker.actual)
