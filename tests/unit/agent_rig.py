"""An agent without a kernel: real store, reconciler, compilers and control API over fakes that behave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from fairway_agent.api.insight import HealthRoutes, InsightRoutes
from fairway_agent.api.objects import ObjectRoutes
from fairway_agent.api.server import application, serve_unix
from fairway_agent.dataplane import Dataplane
from fairway_agent.live import NFT, LiveRevisions
from fairway_agent.metrics import LiveCollector, Metrics, ProblemCollector
from fairway_agent.objects import Objects
from fairway_agent.problems import Problems
from fairway_agent.reconcile import Reconciler
from fairway_agent.status import Status
from fairway_cni.handler import Answer
from fairway_core.clock import SystemClock
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_kernel.nft.fake import FakeRunner
from fairway_policy.compiler import PolicyCompiler
from fairway_proxy.compile import ServiceCompiler
from fairway_store.api import Put, Store
from fairway_store.memory import MemoryStore

CIDRS = ("10.96.0.0/24", "fd00:10:96::/112")
LOG = logging.getLogger("test-agent")


class NoConnections:
    """Connection tracking of a node without connections."""

    def forget(self, matches: Sequence[Any]) -> int:
        return 0

    def sweep_mark(self, mask: int) -> int:
        return 0


@dataclass
class Steps:
    """A subscriber that keeps what it was told."""

    seen: list[tuple[int, int, frozenset[Key]]] = field(default_factory=list)

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        self.seen.append((before.revision, after.revision, touched))


class Rig:
    """The parts of one agent, wired as the composition root does it."""

    def __init__(self, store: Store | None = None, runner: FakeRunner | None = None, clustered: bool = False) -> None:
        self.store: Any = store or MemoryStore()
        self.runner = runner or FakeRunner()
        self.live = LiveRevisions([NFT])
        self.problems = Problems(LOG)
        self.metrics = Metrics()
        compilers: Any = (self.runner, ServiceCompiler("n1", ("10.244.0.0/24",)), PolicyCompiler(), (), NoConnections(), LOG)
        self.dataplane = Dataplane(*compilers)
        self.reconciler = Reconciler(
            self.store, self.dataplane, self.live, self.problems, self.metrics, SystemClock(), LOG, clustered
        )  # fmt: skip
        self.steps = Steps()
        self.reconciler.subscribe(self.steps)
        self.objects = Objects(self.store, self.reconciler, CIDRS)
        self.metrics.registry.register(LiveCollector(self.live))
        self.metrics.registry.register(ProblemCollector(self.problems))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        """Reconcile until the end of the block; an agent that fails fails the test."""
        task = asyncio.create_task(self.reconciler.run())
        synced = asyncio.create_task(self.reconciler.synced.wait())
        await asyncio.wait({task, synced}, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        try:
            yield self
            assert not task.done(), task
        finally:
            synced.cancel()
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.reconciler.close()

    async def settled(self, revision: int) -> None:
        """Until the rules of `revision` are live."""
        assert await self.live.wait(revision, [NFT], 5), self.live.snapshot()

    async def put(self, *documents: dict[str, Any]) -> int:
        """Write past the API, as other writers of the store do."""
        return int(await self.store.commit([Put(_key(document), document) for document in documents]))


def _key(document: dict[str, Any]) -> Key:
    meta = document["metadata"]
    return Key(document["kind"], meta.get("namespace", ""), meta["name"])


class Api:
    """The control API as a client sees it."""

    def __init__(self, session: aiohttp.ClientSession, rig: Rig, stop: Callable[[], Awaitable[None]]) -> None:
        self.session = session
        self.rig = rig
        self.stop = stop

    async def call(self, method: str, path: str, body: Any = None, **kwargs: Any) -> tuple[int, Any]:
        """Status and decoded body."""
        async with self.session.request(method, f"http://agent{path}", json=body, **kwargs) as answer:
            return answer.status, await answer.json()

    async def apply(self, *documents: Any, **fields: Any) -> tuple[int, Any]:
        """POST /v1/apply."""
        return await self.call("POST", "/v1/apply", {"documents": list(documents), **fields})

    async def applied(self, *documents: Any) -> list[dict[str, Any]]:
        """Apply what must be accepted, wait until it is live, give the results."""
        status, answer = await self.apply(*documents)
        assert status == 200, answer
        await self.rig.settled(answer["revision"])
        results: list[dict[str, Any]] = answer["results"]
        return results


async def _no_plugin(body: bytes) -> Answer:
    raise AssertionError("nobody calls the plugin of this rig")


@asynccontextmanager
async def served(directory: Path, rig: Rig | None = None) -> AsyncIterator[Api]:
    """A running rig behind its unix socket."""
    rig = rig or Rig()
    async with rig.running():
        status = Status("n1", "0", rig.reconciler, rig.live, rig.problems)
        routes = [
            *HealthRoutes(status, rig.metrics).routes(),
            *InsightRoutes(status, rig.live, rig.reconciler).routes(),
            *ObjectRoutes(rig.objects).routes(),
        ]
        runner = await serve_unix(application(routes, LOG), directory / "agent.sock", _no_plugin, LOG)
        connector = aiohttp.UnixConnector(path=str(directory / "agent.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Api(session, rig, runner.cleanup)
        await runner.cleanup()


def service(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
    """A Service with one port."""
    return _document("v1", "Service", name, namespace, spec={"ports": [{"port": 80}], "selector": {"app": name}, **spec})


def pod(name: str, namespace: str = "shop", labels: dict[str, str] | None = None, **rest: Any) -> dict[str, Any]:
    """A Pod."""
    document = _document("v1", "Pod", name, namespace, **rest)
    document["metadata"]["labels"] = labels or {}
    return document


def running_pod(name: str, ip: str, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """A Pod as CNI ADD leaves it."""
    status = {
        "phase": "Running",
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    return pod(name, labels=labels, spec={"nodeName": "n1"}, status=status)


def attachment(name: str, pod_name: str, ip: str) -> dict[str, Any]:
    """The record of a container interface."""
    spec = {
        "network": "fairway", "containerID": name, "ifname": "eth0", "netns": "/run/netns/x", "podNamespace": "shop",
        "podName": pod_name, "hostIfname": "fwb1", "mac": "0a:58:0a:f4:00:02", "ips": [ip], "mode": "bridge", "mtu": 1500,
        "confirmed": True,
    }  # fmt: skip
    return {"apiVersion": "fairway.dev/v1", "kind": "Attachment", "metadata": {"name": name}, "spec": spec}


def deny(name: str, namespace: str = "shop") -> dict[str, Any]:
    """A NetworkPolicy that allows nothing in."""
    spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
    return _document("networking.k8s.io/v1", "NetworkPolicy", name, namespace, spec=spec)


def _document(version: str, kind: str, name: str, namespace: str, **rest: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, **rest}
