"""A World is what its objects are, however they came about; the delta tracker agrees with a naive one."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.delta import DeltaTracker, Owner
from fairway_core.endpoints import derive_slices
from fairway_core.keys import Key
from fairway_core.model import Attachment, Endpoint, EndpointSlice, Meta, Namespace, Object, Pod, PodPort, Service, ServicePort
from fairway_core.selectors import EVERYTHING, selector_from_labels
from fairway_core.world import Change, World, is_derived

NAMESPACES = ("shop", "pay")
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b"]))
ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"]), unique=True, max_size=3).map(tuple)


@st.composite
def metas(draw: st.DrawFn, names: tuple[str, ...]) -> Meta:
    return Meta(draw(st.sampled_from(names)), draw(st.sampled_from(NAMESPACES)), draw(LABELS))


@st.composite
def pods(draw: st.DrawFn) -> Pod:
    return Pod(
        draw(metas(("p1", "p2", "p3"))),
        ips=draw(ADDRESSES),
        ports=(PodPort("http", draw(st.sampled_from([80, 81]))),) if draw(st.booleans()) else (),
        host_network=draw(st.booleans()),
        phase=draw(st.sampled_from(["Pending", "Running", "Running", "Succeeded", "Failed"])),
        ready=draw(st.booleans()),
        terminating=draw(st.booleans()),
    )


@st.composite
def services(draw: st.DrawFn) -> Service:
    labels = draw(LABELS)
    return Service(
        draw(metas(("s1", "s2"))),
        cluster_ips=draw(ADDRESSES),
        selector=draw(st.sampled_from([None, EVERYTHING, selector_from_labels(labels)])),
        ports=(ServicePort(80, name="web", target=draw(st.sampled_from([80, "http", 0]))),) if draw(st.booleans()) else (),
    )


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    meta = draw(metas(("s1-x", "s1-fairway-0", "s1:0", "s2:0")))
    return EndpointSlice(meta, draw(st.sampled_from(["s1", "s2", ""])), 4, (Endpoint(("10.9.9.9",)),))


def others() -> st.SearchStrategy[Object]:
    namespaces = st.builds(lambda name, labels: Namespace(Meta(name, "", labels)), st.sampled_from(NAMESPACES), LABELS)
    attachments = st.builds(
        lambda pod, ns: Attachment(Meta("att"), "net", "c1", "eth0", "/ns", ns, pod, "fwb1", "02:00:00:00:00:01", ()),
        st.sampled_from(["p1", "p2"]),
        st.sampled_from(NAMESPACES),
    )
    return namespaces | attachments


def key_of(item: Object) -> Key:
    return item.meta.key(type(item).__name__)


OBJECTS = pods() | services() | slices() | others()
PUTS = OBJECTS.map(lambda item: Change(key_of(item), item))
DELETES = OBJECTS.map(lambda item: Change(key_of(item), None))
HISTORY = st.lists(st.lists(PUTS | PUTS | DELETES, max_size=5), max_size=8)


def contents(world: World) -> tuple[dict[Key, Object], dict[tuple[str, ...], set[Key]]]:
    return dict(world.objects.items()), {index: set(keys) for index, keys in world.index.items()}


@settings(max_examples=200, deadline=None)
@given(HISTORY, st.booleans())
def test_any_history_gives_the_world_of_its_final_objects(history: list[list[Change]], derive: bool) -> None:
    world, stored = World(derive_endpoints=derive), dict[Key, Object | None]()
    for revision, changes in enumerate(history, 1):
        before = world
        world, touched = world.apply(changes, revision)
        stored.update({change.key: change.value for change in changes})
        old, new = contents(before)[0], contents(world)[0]
        assert touched == {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        assert world.revision == revision
    fresh, _ = World(derive_endpoints=derive).apply([Change(key, value) for key, value in stored.items()], 1)
    assert contents(world) == contents(fresh)


@settings(max_examples=100, deadline=None)
@given(HISTORY)
def test_derived_slices_are_those_of_the_pods_selected_now(history: list[list[Change]]) -> None:
    world = World()
    for revision, changes in enumerate(history, 1):
        world, _ = world.apply(changes, revision)
    for service in world.services():
        namespace, wanted = service.meta.namespace, []
        if service.selector is not None and service.selector.requirements:
            chosen = [p for p in world.pods() if p.meta.namespace == namespace and service.selector.matches(p.meta.labels)]
            wanted = derive_slices(service, chosen)
        assert [s for s in world.slices_of(namespace, service.meta.name) if is_derived(s)] == wanted
    attached = {(item.pod_namespace, item.pod_name) for item in world.attachments()}
    for pod in world.pods():
        for ip in pod.ips:
            owners = [p for p in world.pods() if ip in p.ips and p.on_pod_network]
            owners.sort(key=lambda p: ((p.meta.namespace, p.meta.name) not in attached, p.terminating))
            assert world.pod_of_ip(ip) == (owners[0] if owners else None)


OWNERS = st.sampled_from([("a",), ("b",), ("a", "x")])
VALUES = st.dictionaries(st.sampled_from("klmn"), st.sampled_from([(), "1", "2"]), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["declare", "observe", "commit", "late"]), OWNERS, VALUES), max_size=15))
def test_the_tracker_agrees_with_a_naive_one(steps: list[tuple[str, Owner, dict[str, object]]]) -> None:
    tracker: DeltaTracker[str, object] = DeltaTracker()
    owned: dict[Owner, dict[str, object]] = {}
    actual: dict[str, object] = {}
    late = tracker.pending()
    for action, owner, values in steps:
        if action == "declare":
            tracker.declare(owner, values)
            owned[owner] = values
        elif action == "observe":
            tracker.observe(values)
            actual = dict(values)
        else:
            # A delta may be committed after further declarations: what it says is then in place all the same.
            delta = tracker.pending() if action == "commit" else late
            tracker.committed(delta)
            actual.update(delta.add)
            actual.update({key: new for key, (_old, new) in delta.change.items()})
            actual = {key: value for key, value in actual.items() if key not in delta.delete}
        if action != "late":
            late = tracker.pending()
        desired: dict[str, object] = {}
        for name in sorted(owned, reverse=True):
            desired.update(owned[name])
        pending = tracker.pending()
        assert dict(tracker.actual) == actual
        assert pending.add == {key: value for key, value in desired.items() if key not in actual}
        assert pending.delete == {key: value for key, value in actual.items() if key not in desired}
        both = {key: (actual[key], desired[key]) for key in desired.keys() & actual.keys() if actual[key] != desired[key]}
        assert pending.change == both
        assert len(pending) == len(pending.add) + len(pending.change) + len(pending.delete)
        for key in "klmn":
            losers = {name: wants[key] for name, wants in owned.items() if key in wants and wants[key] != desired[key]}
            assert tracker.conflicts(key) == losers
