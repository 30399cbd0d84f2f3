"""KubernetesStore and CompositeStore against a double that speaks like a real API server, in good times and bad."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.double import Double, Fault
from tests.kubernetes.following import QUICK, Cluster, eventually, pod
from tests.kubernetes.recorded import scenario

from fairway_core.codec import decode
from fairway_core.errors import ConflictError, StoreUnavailable, UserError
from fairway_core.keys import Key
from fairway_store.api import ABSENT, Changed, InSync, Put
from fairway_store.composite import CompositeStore
from fairway_store.kubernetes.reflector import Documents, Kept
from fairway_store.kubernetes.resources import Resource, cluster_resources
from fairway_store.kubernetes.store import KubernetesStore
from fairway_store.sqlite import SqliteStore

OPTIONAL = Resource("Gateway", "gateway.networking.k8s.io/v1", "gateways", required=False)
CLUSTER_POLICY = Key("ClusterNetworkPolicy", "", "baseline")
ATTACHMENT = Key("Attachment", "", "a1")
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "front", "namespace": "shop"},
    "spec": {"parentRefs": [{"name": "edge"}]},
}


@pytest.fixture(params=[True, False], ids=["streaming", "paged"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[Cluster]:
    made = Cluster(Double(streaming=request.param))
    made.url = await made.double.start()
    yield made
    await made.double.stop()


@pytest.fixture
async def store(cluster: Cluster) -> AsyncIterator[KubernetesStore]:
    made = cluster.store()
    yield made
    await made.close()


async def test_the_recorded_scenario_is_followed_to_its_end(cluster: Cluster, store: KubernetesStore) -> None:
    for number, (_plural, event) in enumerate(scenario()):
        cluster.double.replay(event)
        if number % 20 == 0:
            await cluster.converged(store)
    await cluster.converged(store)
    for entry in (await store.list()).entries:
        assert decode(entry.document).meta.name == entry.key.name
    assert not any("managedFields" in entry.document["metadata"] for entry in (await store.list()).entries)


async def test_lists_in_pages_and_says_in_sync_once_every_kind_is_there(cluster: Cluster) -> None:
    for number in range(10):
        cluster.double.put(pod(f"p{number}"))
    cluster.double.misbehave(*[Fault("list", 500)] * 4, *[Fault("watch", 500)] * 4)
    store = cluster.store()
    assert len((await store.list("Pod")).entries) == 10
    assert {path for verb, path in cluster.double.requests} == {resource.plural for resource in cluster_resources()}
    await store.close()


async def test_a_relist_changes_only_what_has_changed(cluster: Cluster, store: KubernetesStore) -> None:
    for name in ("a", "b", "c"):
        cluster.double.put(pod(name))
    await cluster.converged(store)
    revision = (await store.list()).revision
    await cluster.double.stop()
    cluster.double.put(pod("b", "10.0.0.2"))
    cluster.double.delete("Pod", "shop", "c")
    cluster.double.compact()
    await asyncio.sleep(0.05)
    assert len((await store.list("Pod")).entries) == 3, "an outage changes nothing"
    await cluster.double.start()
    await cluster.converged(store)
    changed: list[Changed] = []
    async for event in store.watch(revision):
        if isinstance(event, InSync):
            break
        changed += event
    assert sorted((item.key.name, item.entry is not None) for item in changed) == [("b", True), ("c", False)]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("watch", gone=True), Fault("watch", gone=True, after=2), Fault("watch", 410), Fault("watch", cut=True),
        Fault("watch", cut=True, after=1), Fault("watch", hang=True, after=1), Fault("watch", twice=True), Fault("watch", 500),
        Fault("watch", end=True), Fault("watch", 504), Fault("watch", 403), Fault("list", cut=True), Fault("list", 410),
    ],
    ids=str,
)  # fmt: skip
async def test_after_every_fault_the_store_is_right_again(cluster: Cluster, fault: Fault) -> None:
    for number in range(4):
        cluster.double.put(pod(f"p{number}"))
    cluster.double.misbehave(fault, fault)
    store = cluster.store()
    cluster.double.put(pod("p0", "10.0.0.1"))
    await cluster.converged(store)
    cluster.double.misbehave(fault)
    cluster.double.delete("Pod", "shop", "p1")
    cluster.double.put(pod("p2", "10.0.0.2"))
    await cluster.converged(store)
    await eventually(lambda: settled(cluster))
    await store.close()


async def settled(cluster: Cluster) -> bool:
    return not any(cluster.faults.values())


async def test_an_expired_continue_token_starts_the_list_over(cluster: Cluster) -> None:
    cluster.double.streaming = False
    for number in range(7):
        cluster.double.put(pod(f"p{number}"))
    served: list[str] = []
    original = cluster.double._list

    async def compacting(request: Any, collection: Any, fault: Fault) -> Any:
        served.append(collection.kind.name)
        answer = await original(request, collection, fault)
        if served.count("Pod") == 1 and collection.kind.name == "Pod":
            cluster.double.delete("Pod", "shop", "p0")
            cluster.double.compact()
        return answer

    cluster.double._list = compacting  # type: ignore[method-assign]
    store = cluster.store()
    assert [entry.key.name for entry in (await store.list("Pod")).entries] == [f"p{number}" for number in range(1, 7)]
    await store.close()


async def test_retry_after_is_obeyed(cluster: Cluster) -> None:
    cluster.double.misbehave(*[Fault(verb, 429, retry_after=1) for verb in ("list", "watch") for _ in range(6)])
    started = asyncio.get_running_loop().time()
    store = cluster.store()
    await store.list()
    assert asyncio.get_running_loop().time() - started >= 1
    await store.close()


async def test_a_server_that_refuses_everything_is_not_hammered(cluster: Cluster) -> None:
    cluster.double.misbehave(*[Fault(verb, 500) for verb in ("list", "watch") for _ in range(1000)])
    store = cluster.store()
    await asyncio.sleep(0.5)
    # Waits grow to 25-50 ms, so 10 to 20 attempts of each kind at the very most.
    assert len(cluster.double.requests) <= len(cluster_resources()) * 25
    await store.close()


async def test_a_missing_permission_is_named(cluster: Cluster) -> None:
    cluster.double.misbehave(*[Fault(verb, 403) for verb in ("list", "watch") for _ in range(6)])
    store = cluster.store()
    await store.list()
    assert any("missing permission" in text and 'in API group ""' in text for text in cluster.said)
    await eventually(lambda: settled(cluster))
    await store.close()


async def test_a_rotated_token_is_picked_up(cluster: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    cluster.double.token = "new"
    store = cluster.store(token_file=token)
    await eventually(lambda: said(cluster, "does not accept the credentials"))
    token.write_text("new\n")
    await store.list()
    await store.close()


async def said(cluster: Cluster, text: str) -> bool:
    return any(text in line for line in cluster.said)


async def test_the_next_server_is_tried_when_one_cannot_be_reached(cluster: Cluster) -> None:
    cluster.double.put(pod("p0"))
    store = cluster.store(servers=("http://127.0.0.1:1", cluster.url))
    await cluster.converged(store)
    await store.close()


async def test_a_group_that_is_not_installed_is_looked_for_quietly(cluster: Cluster) -> None:
    store = cluster.store(resources=(*cluster_resources(), OPTIONAL))
    await store.list()
    looked = cluster.double.requests.count(("watch", OPTIONAL.plural)) + cluster.double.requests.count(("list", OPTIONAL.plural))
    await asyncio.sleep(0.1)
    again = cluster.double.requests.count(("watch", OPTIONAL.plural)) + cluster.double.requests.count(("list", OPTIONAL.plural))
    assert again > looked
    assert not any(cluster.said)
    await store.close()


async def test_a_kind_is_followed_from_when_its_group_is_installed(cluster: Cluster) -> None:
    installed = dict(cluster.double.collections)
    cluster.double.uninstall(CLUSTER_POLICY.kind)
    store = cluster.store()
    assert (await store.list()).entries == ()
    cluster.double.collections = installed
    spec = {"tier": "Admin", "priority": 7}
    version = cluster.double.collections["/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies"].kind.api_version
    cluster.double.put({"apiVersion": version, "kind": CLUSTER_POLICY.kind, "metadata": {"name": "baseline"}, "spec": spec})
    await cluster.converged(store)
    entry = await store.get(CLUSTER_POLICY)
    assert entry is not None and decode(entry.document).meta.name == "baseline"
    assert not any(cluster.said)
    await store.close()


@pytest.mark.parametrize("optional", [True, False])
async def test_a_permission_missing_for_what_can_be_done_without_holds_nothing_up(cluster: Cluster, optional: bool) -> None:
    permitted = cluster.double.collections
    kind = CLUSTER_POLICY.kind if optional else "NetworkPolicy"
    refused = next(path for path, item in permitted.items() if item.kind.name == kind)
    cluster.double.forbidden.add(refused)
    store = cluster.store()
    listing = asyncio.ensure_future(store.list())
    await eventually(lambda: said(cluster, "missing permission"))
    if optional:
        assert (await listing).entries == ()
    else:
        assert not listing.done()
    cluster.double.forbidden.clear()
    await listing
    await eventually(lambda: settled(cluster))
    await store.close()


async def test_a_required_group_that_is_missing_is_a_fault_and_never_in_sync(cluster: Cluster) -> None:
    cluster.double.uninstall("NetworkPolicy")
    store = cluster.store()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.list(), 0.5)
    assert "404" in cluster.faults["NetworkPolicy"]
    waiting = asyncio.ensure_future(store.list())
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await waiting


async def test_what_belongs_to_the_api_server_is_not_written(store: KubernetesStore) -> None:
    with pytest.raises(UserError, match=r"Pod/shop/x is written through the API server"):
        await store.commit([Put(Key("Pod", "shop", "x"), {})])


async def test_local_kinds_survive_and_share_the_revisions(cluster: Cluster, tmp_path: Path) -> None:
    cluster.double.put(pod("p0"))
    first = await composite(cluster, tmp_path)
    events = first.watch((await first.list()).revision)
    assert isinstance(await anext(events), InSync)
    revision = await first.commit([Put(ATTACHMENT, {"n": 1}, ABSENT)])
    assert (await anext(events))[0].key == ATTACHMENT  # type: ignore[index]
    with pytest.raises(ConflictError):
        await first.commit([Put(ATTACHMENT, {"n": 2}, ABSENT)])
    with pytest.raises(UserError):
        await first.commit([Put(ATTACHMENT, {"n": 2}), Put(Key("Pod", "shop", "x"), {})])
    assert await first.commit([Put(ATTACHMENT, {"n": 1}, revision)]) == revision
    cluster.double.put(pod("p1"))
    await cluster.converged(first)
    assert (await first.list()).revision > revision
    await first.close()
    second = await composite(cluster, tmp_path)
    assert [entry.key.kind for entry in (await second.list()).entries] == ["Attachment", "Pod", "Pod"]
    await second.close()


async def composite(cluster: Cluster, path: Path) -> CompositeStore:
    made = CompositeStore(await SqliteStore.open(path / "local.db"), cluster.store(), frozenset({"Attachment"}))
    await made.load()
    return made


async def test_a_list_becomes_text_page_by_page(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 Pods listed anew once held the loop, and with it every CNI call, for most of a second."""
    for number in range(20):
        cluster.double.put(pod(f"p{number}", f"10.0.0.{number}"))
    sizes: list[int] = []
    real = KubernetesStore.prepare

    def prepare(self: KubernetesStore, documents: Documents) -> Kept:
        sizes.append(len(documents))
        return real(self, documents)

    async def replace(self: KubernetesStore, resource: Resource, kept: Kept) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("fairway_store.plan.to_text", lambda key, document: pytest.fail("all at once"))
            await replaced(self, resource, kept)

    replaced = KubernetesStore.replace
    monkeypatch.setattr(KubernetesStore, "prepare", prepare)
    monkeypatch.setattr(KubernetesStore, "replace", replace)
    store = cluster.store()
    await cluster.converged(store)
    assert max(sizes) <= QUICK.page
    await store.close()


@pytest.mark.parametrize("status", [500, 503])
async def test_a_kind_the_node_can_do_without_holds_no_start_up_however_it_fails(cluster: Cluster, status: int) -> None:
    """A conversion webhook that is away makes one kind of a group fail for ever; the node must not wait for it."""
    path = next(path for path, item in cluster.double.collections.items() if item.kind.name == "HTTPRoute")
    cluster.double.broken[path] = status
    cluster.double.put(pod("p"))
    store = cluster.store()
    assert len((await asyncio.wait_for(store.list(), 5)).entries) == 1
    assert str(status) in cluster.faults["HTTPRoute"]
    # Once it works it is followed like any other.
    del cluster.double.broken[path]
    cluster.double.put(ROUTE)
    await cluster.converged(store)
    await eventually(lambda: settled(cluster))
    await store.close()


async def test_an_api_server_that_is_away_starts_nobody_without_what_a_node_can_do_without(cluster: Cluster) -> None:
    """All of it comes back together: names that a Tenant hides must not be shown until its list is there too."""
    nobody = "http://127.0.0.1:9"
    store = cluster.store(servers=(nobody,))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.list(), 0.5)
    assert not any(reflector.synced.is_set() for reflector in store.reflectors)
    await store.close()


async def test_a_server_that_has_streamed_lists_is_asked_for_them_again_after_an_outage() -> None:
    """Paging is dearer for the server; one silence must not make a node page for the rest of its life."""
    double = Double(streaming=True)
    cluster = Cluster(double)
    cluster.url = await double.start()
    double.put(pod("p0"))
    # A list, a watch that expires at once, a fresh list of which nothing comes at first.
    double.misbehave(Fault("watch"), Fault("watch", gone=True), Fault("watch", hang=True))
    store = cluster.store(resources=[item for item in cluster_resources() if item.kind == "Pod"])
    async with asyncio.timeout(5):
        while store.reflectors[0].lists < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    double.put(pod("p1"))
    await cluster.converged(store)
    assert ("list", "pods") not in double.requests
    await store.close()
    await double.stop()
