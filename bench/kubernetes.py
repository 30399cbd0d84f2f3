"""The first sync with an API server, and a steady load of events: time, memory, lag of the event loop.

    .venv/bin/python bench/kubernetes.py [--services 10000 --endpoints 50000 --pods 20000 --policies 1000 --rate 1000]
    sudo .venv/bin/python bench/kubernetes.py --node
    sudo .venv/bin/python bench/kubernetes.py --add [--adds 20 --rounds 5 --far 2000 --rate 1000 --moving 10]

The server is the stand-in of the tests, in a process of its own; objects have the size of real ones (managedFields included).
Measured is the store up to a complete World, without compiling rules. Peer: the same lists fetched and parsed as JSON one after
the other, the least any client has to do; in this run, on this machine.

With --node: a whole agent on a node of a laboratory, from its start until all rules are in the kernel and names are answered.

With --add: the plugin's ADD end to end on a node of a laboratory, while pods of other nodes change at the given rate, and how
late the agent's event loop is meanwhile, as its own metric has it. Peer: the same ADDs between the streams. Of a hundred events
--moving are pods with new addresses, which change rules and names; the others are what most events of a cluster are, changes of a
status that mean nothing here.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import multiprocessing
import resource
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _kubernetes_add as add
import _kubernetes_node as node
import aiohttp

from fairway_core.codec import decode
from fairway_core.world import Change, World
from fairway_store.api import InSync
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.resources import cluster_resources
from fairway_store.kubernetes.store import KubernetesStore

RECORDINGS = Path(__file__).parent.parent / "tests/kubernetes/recordings"
PER_SLICE = 5
SECONDS = 5.0


def template(name: str) -> dict[str, Any]:
    item: dict[str, Any] = json.loads((RECORDINGS / f"list-{name}.json").read_text())["body"]["items"][-1]
    return item


def named(item: dict[str, Any], kind: str, name: str, **changes: Any) -> dict[str, Any]:
    """A copy of a recorded object under another name."""
    copied: dict[str, Any] = json.loads(json.dumps(item))
    copied["metadata"].update(name=name, namespace="bench", labels={"app": f"a{name.rpartition('-')[2]}"})
    return {"kind": kind, **copied, **changes}


def endpoints(number: int) -> list[dict[str, Any]]:
    first = number * PER_SLICE
    return [
        {
            "addresses": [f"10.{(first + i) >> 16 & 63}.{(first + i) >> 8 & 255}.{(first + i) & 255}"],
            "conditions": {"ready": True},
        }
        for i in range(PER_SLICE)
    ]


def fill(double: Any, options: argparse.Namespace) -> None:
    pod, service, piece = template("pods"), template("services"), template("endpointslices")
    for number in range(options.pods):
        double.put(named(pod, "Pod", f"pod-{number}"))
    for number in range(options.services):
        ip = f"10.96.{number >> 8 & 255}.{number & 255}"
        double.put(named(service, "Service", f"svc-{number}", spec={**service["spec"], "clusterIP": ip, "clusterIPs": [ip]}))
    for number in range(options.endpoints // PER_SLICE):
        slice_ = named(piece, "EndpointSlice", f"slice-{number}", endpoints=endpoints(number), addressType="IPv4")
        slice_["metadata"]["labels"]["kubernetes.io/service-name"] = f"svc-{number % max(1, options.services)}"
        double.put(slice_)
    spec = {"podSelector": {"matchLabels": {"app": "a1"}}, "policyTypes": ["Ingress"]}
    for number in range(options.policies):
        meta = {"name": f"policy-{number}", "namespace": "bench"}
        double.put({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": meta, "spec": spec})


def serve(options: argparse.Namespace, pipe: Connection) -> None:
    """The server's process: fill, serve, and change pods at the wanted rate when told to."""
    sys.path.append(str(add.ROOT))
    from tests.kubernetes.double import Double

    async def run() -> None:
        double = Double(page=500, streaming=options.streaming, bookmarks=60.0)
        fill(double, options)
        double.compact()
        pipe.send(await double.start())
        pod = template("pods")
        while not pipe.poll():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        pipe.recv()
        started, sent = time.monotonic(), 0
        while time.monotonic() - started < SECONDS:
            while sent < (time.monotonic() - started) * options.rate:
                sent += 1
                double.put(
                    named(
                        pod, "Pod", f"pod-{sent % options.pods}", status={"phase": "Running", "podIP": f"10.200.0.{sent % 250}"}
                    )
                )
            if len(double.collections["/api/v1/pods"].history) > 2000:
                del double.collections["/api/v1/pods"].history[:1000]
            await asyncio.sleep(0.005)
        pipe.send(sent)
        await asyncio.sleep(3)

    asyncio.run(run())


async def peer(url: str) -> float:
    """Every list, fetched and parsed."""
    started = time.monotonic()
    async with aiohttp.ClientSession() as session:
        for item in cluster_resources():
            token = ""
            while True:
                query = {"limit": "500", **({"continue": token} if token else {})}
                async with session.get(url + item.path, params=query) as response:
                    token = json.loads(await response.read())["metadata"].get("continue", "")
                if not token:
                    break
    return time.monotonic() - started


async def sync(store: KubernetesStore) -> World:
    listing = await store.list()
    items = [decode(entry.document) for entry in listing.entries]
    changes = [Change(entry.key, item) for entry, item in zip(listing.entries, items, strict=True)]
    world, _ = World(derive_endpoints=False, address_pods=True).apply(changes, listing.revision)
    return world


async def follow(store: KubernetesStore, world: World, pipe: Connection) -> tuple[int, int, list[float]]:
    """Apply events while the server makes them: how many arrived, how many were made, lags of the loop in seconds."""
    lags: list[float] = []

    async def beat() -> None:
        while True:
            due = time.monotonic() + 0.01
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - due)

    async def take() -> None:
        nonlocal world, arrived
        async for event in store.watch(world.revision):
            if not isinstance(event, InSync):
                arrived += len(event)
                changes = [Change(item.key, decode(item.entry.document) if item.entry else None) for item in event]
                world, _ = world.apply(changes, event[-1].revision)

    arrived = 0
    tasks = [asyncio.create_task(beat()), asyncio.create_task(take())]
    pipe.send("go")
    await asyncio.sleep(SECONDS)
    while not pipe.poll():  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    return arrived, pipe.recv(), lags


async def measure(options: argparse.Namespace, url: str, pipe: Connection) -> None:
    least = await peer(url)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    store = KubernetesStore(Access((url,), "bench"), lambda kind, fault: None, logging.getLogger("bench"))
    store.start()
    world = await sync(store)
    took = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"objects            {len(world.objects)}")
    print(f"fetch and parse    {least:.2f} s (peer)")
    print(f"first World        {took:.2f} s, {took / least:.2f} x peer")
    print(f"peak memory        {peak / 1024:.0f} MiB (before: {before / 1024:.0f})")
    arrived, made, lags = await follow(store, world, pipe)
    lags.sort()
    print(f"events             {made / SECONDS:.0f} per second made, {arrived} of {made} changes seen")
    print(f"loop lag           p50 {lags[len(lags) // 2] * 1000:.1f} ms, p99 {lags[len(lags) * 99 // 100] * 1000:.1f} ms")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    for name, default in (("services", 10_000), ("endpoints", 50_000), ("pods", 20_000), ("policies", 1_000), ("rate", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--paged", dest="streaming", action="store_false", help="a server without streaming lists")
    parser.add_argument("--node", action="store_true", help="a whole agent instead, rules and names included (root needed)")
    parser.add_argument("--add", action="store_true", help="ADD under a stream of events instead (root needed)")
    for name, default in (("adds", 20), ("rounds", 5), ("far", 2_000), ("seconds", 2), ("moving", 10)):
        parser.add_argument(f"--{name}", type=int, default=default, help="with --add")
    options = parser.parse_args()
    if options.node:
        node.measure(options)
        return
    if options.add:
        add.measure(options)
        return
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(options, there), daemon=True)
    server.start()
    try:
        asyncio.run(measure(options, here.recv(), here))
    finally:
        server.terminate()
        server.join()


if __name__ == "__main__":
    main()
