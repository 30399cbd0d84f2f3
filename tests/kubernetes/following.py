"""A store that follows the stand-in for an API server, with waits of milliseconds."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tests.kubernetes.double import Double

from fairway_store.api import Store
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.prune import prune
from fairway_store.kubernetes.resources import cluster_resources
from fairway_store.kubernetes.store import KubernetesStore
from fairway_store.kubernetes.timing import Timing

LOG = logging.getLogger("test")
QUICK = Timing(connect=1, request=1, silence=0.3, list_silence=0.3, base=0.005, cap=0.05, calm=5, probe=0.02, page=3, grace=0.2)


def pod(name: str, ip: str = "", namespace: str = "shop", **labels: str) -> dict[str, Any]:
    status = {"podIP": ip, "podIPs": [{"ip": ip}]} if ip else {}
    meta = {"name": name, "namespace": namespace, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", **status},
    }


class Cluster:
    """A double, a store on it, and what the store complained about."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.url = ""
        self.faults: dict[str, str] = {}
        self.said: list[str] = []

    def report(self, kind: str, fault: str) -> None:
        self.faults[kind] = fault
        self.said.append(fault)

    def store(self, servers: tuple[str, ...] = (), resources: Any = None, **access: Any) -> KubernetesStore:
        made = KubernetesStore(Access(servers or (self.url,), "test", **access), self.report, LOG, QUICK, resources)
        made.start()
        return made

    async def converged(self, store: Store) -> None:
        """Wait until the store holds exactly what a fresh list of the server shows."""
        await eventually(lambda: self.same(store))

    async def same(self, store: Store) -> bool:
        rules = {resource.kind: resource for resource in cluster_resources()}
        wanted = [prune(rules[document["kind"]], document) for document in self.double.documents()]
        held = [entry.document for entry in (await store.list()).entries if entry.key.kind in rules]
        return sorted(map(repr_of, wanted)) == sorted(map(repr_of, held))


def repr_of(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


async def eventually(holds: Callable[[], Awaitable[Any]], timeout: float = 5) -> None:
    async with asyncio.timeout(timeout):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
