"""Whatever an API server does, in the end the node's world is that of a fresh list, and nothing has flapped on the way."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kubernetes.double import Double, Fault

from fairway_core.codec import decode
from fairway_core.keys import Key
from fairway_core.world import Change, World
from fairway_store.api import InSync
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.prune import prune
from fairway_store.kubernetes.resources import cluster_resources
from fairway_store.kubernetes.store import KubernetesStore
from fairway_store.kubernetes.timing import Timing

LOG = logging.getLogger("test")
QUICK = Timing(connect=1, request=0.3, silence=0.1, list_silence=0.1, base=0.001, cap=0.01, calm=5, probe=0.02, page=2)
STABLE = Key("Pod", "shop", "stable")

FAULTS = st.builds(
    Fault,
    on=st.sampled_from(["list", "watch"]),
    status=st.sampled_from([0, 0, 0, 410, 429, 500, 503]),
    gone=st.booleans(),
    cut=st.booleans(),
    twice=st.booleans(),
    end=st.booleans(),
    after=st.integers(0, 3),
) | st.builds(Fault, on=st.just("watch"), hang=st.just(True), after=st.integers(0, 2))
NAMES = st.sampled_from(["p0", "p1", "p2", "p3", "p4"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NAMES, st.integers(1, 3)),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("policy"), NAMES),
        st.tuples(st.just("fault"), FAULTS),
        st.tuples(st.just("fault"), FAULTS),
        st.tuples(st.just("compact")),
        st.tuples(st.just("restart")),
        st.tuples(st.just("pause")),
    ),
    max_size=14,
)


def pod(name: str, number: int) -> dict[str, Any]:
    meta = {"name": name, "namespace": "shop", "labels": {"n": str(number)}}
    status = {"phase": "Running", "podIPs": [{"ip": f"10.0.0.{number}"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": "n1"}, "status": status}


async def take(double: Double, step: tuple[Any, ...]) -> None:
    match step:
        case ("put", name, number):
            double.put(pod(name, number))
        case ("delete", name):
            double.delete("Pod", "shop", name)
        case ("policy", name):
            meta = {"name": name, "namespace": "shop"}
            double.put(
                {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": {"podSelector": {}}}
            )
        case ("fault", fault):
            double.misbehave(fault)
        case ("compact",):
            double.compact()
        case ("restart",):
            await double.stop()
            await double.start()
        case ("pause",):
            await asyncio.sleep(0.01)


def fresh(double: Double) -> World:
    rules = {resource.kind: resource for resource in cluster_resources()}
    kept = [prune(rules[document["kind"]], document) for document in double.documents()]
    return world_of([document for document in kept if document])


def world_of(documents: list[Any]) -> World:
    values = [decode(document) for document in documents]
    return World(derive_endpoints=False).apply([Change(item.meta.key(type(item).__name__), item) for item in values], 1)[0]


async def scene(steps: list[tuple[Any, ...]], streaming: bool) -> None:
    double = Double(streaming=streaming, bookmarks=0.01)
    double.put(pod("stable", 1))
    store = KubernetesStore(Access((await double.start(),), "test"), lambda kind, fault: None, LOG, QUICK)
    store.start()
    try:
        for step in steps:
            await take(double, step)
        wanted = fresh(double)
        async with asyncio.timeout(10):
            while world_of([entry.document for entry in (await store.list()).entries]).objects != wanted.objects:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        seen = []
        async for event in store.watch(0):
            if isinstance(event, InSync):
                break
            seen += [json.dumps(item.entry and item.entry.document, sort_keys=True) for item in event if item.key == STABLE]
        assert len(seen) == 1, "an object that never changed was announced once"
    finally:
        await store.close()
        await double.stop()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.booleans())
def test_any_sequence_of_faults_ends_with_the_world_of_a_fresh_list(steps: list[tuple[Any, ...]], streaming: bool) -> None:
    asyncio.run(scene(steps, streaming))
