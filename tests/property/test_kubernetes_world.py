"""Where an API server declares Pods, their addresses come from attachments, whatever came first."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.addressing import addressed
from fairway_core.keys import Key
from fairway_core.model import Attachment, Meta, Object, Pod
from fairway_core.world import Change, World

NAMES = st.sampled_from(["p1", "p2"])
ADDRESSES = st.lists(st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), unique=True, max_size=2).map(tuple)
PODS = st.builds(
    lambda name, ips, app, host: Pod(Meta(name, "shop", {"app": app}), ips, host_network=host),
    NAMES,
    ADDRESSES,
    st.sampled_from(["a", "b"]),
    st.booleans(),
)
ATTACHMENTS = st.builds(
    lambda name, pod, ifname, ips: Attachment(
        Meta(name), "net", "c", ifname, "/ns", "shop", pod, "fwb1", "02:00:00:00:00:01", ips
    ),
    st.sampled_from(["a1", "a2", "a3"]),
    NAMES,
    st.sampled_from(["eth0", "net1"]),
    ADDRESSES,
)


def key_of(item: Object) -> Key:
    return item.meta.key(type(item).__name__)


PUTS = (PODS | ATTACHMENTS).map(lambda item: Change(key_of(item), item))
DELETES = (PODS | ATTACHMENTS).map(lambda item: Change(key_of(item), None))
HISTORY = st.lists(st.lists(PUTS | PUTS | DELETES, max_size=4), max_size=8)


@settings(max_examples=150, deadline=None)
@given(HISTORY)
def test_the_world_depends_on_what_is_there_only(history: list[list[Change]]) -> None:
    world = World(derive_endpoints=False, address_pods=True)
    stored: dict[Key, Object] = {}
    for revision, changes in enumerate(history, start=1):
        before = world
        world, touched = world.apply(changes, revision)
        for change in changes:
            stored.pop(change.key, None) if change.value is None else stored.update({change.key: change.value})
        assert touched == {key for key in {*before.objects, *world.objects} if before.objects.get(key) != world.objects.get(key)}
    fresh, _ = World(derive_endpoints=False, address_pods=True).apply([Change(*pair) for pair in stored.items()], len(history))
    assert dict(world.objects.items()) == dict(fresh.objects.items())
    assert {index: set(keys) for index, keys in world.index.items()} == {i: set(keys) for i, keys in fresh.index.items()}
    attachments = [item for item in stored.values() if isinstance(item, Attachment)]
    for name in ("p1", "p2"):
        key = Key("Pod", "shop", name)
        declared = stored.get(key)
        assert isinstance(declared, Pod | None)
        assert world.declared_pod(key) == declared
        assert world.get(key) == addressed(key, declared, [item for item in attachments if item.pod_name == name])


def test_an_attachment_gives_its_pod_the_address_before_the_api_server_knows() -> None:
    pod = Pod(Meta("web", "shop", {"app": "web"}))
    attachment = Attachment(Meta("a"), "net", "c", "eth0", "/ns", "shop", "web", "fwb1", "02:00:00:00:00:01", ("10.0.0.9",))
    world, _ = World(address_pods=True).apply([Change(key_of(pod), pod)], 1)
    world, touched = world.apply([Change(key_of(attachment), attachment)], 2)
    found = world.pod_of_ip("10.0.0.9")
    assert found is not None and found.meta.labels == {"app": "web"}
    assert touched == {key_of(pod), key_of(attachment)}
    world, _ = world.apply([Change(key_of(attachment), None)], 3)
    assert world.pod_of_ip("10.0.0.9") is None and world.pod("shop", "web") == pod
