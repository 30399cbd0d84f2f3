"""A double in a thread of its own, listening inside a network namespace: the API server of a laboratory's node."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.kubernetes.double import Double

from fairway_core.errors import KernelError
from fairway_kernel import netns

T = TypeVar("T")
PORT = 6443


class ServedDouble:
    """Starts as soon as the namespace exists; every call is carried out on the double's own loop."""

    namespace = "shop"
    service_cidrs: Sequence[str] = ("10.96.0.0/16", "fd00:10:96::/112")

    def __init__(self, namespace: Path | None, address: str = "127.0.0.1") -> None:
        """`address` is where those who use it find it; it listens on all. Without a namespace: here, on a port of loopback."""
        self._namespace = namespace
        self._url = f"http://{address}:{PORT}"
        self._served = threading.Event()
        self._double = Double(bookmarks=1.0, token="secret")
        self._loop = asyncio.new_event_loop()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def node(self, name: str) -> str:
        """What a laboratory's node is called in the cluster."""
        return name

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig for it, written to `path`."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "node"}}],
            "clusters": [{"name": "lab", "cluster": {"server": self._url}}],
            "users": [{"name": "node", "user": {"token": "secret"}}],
        }
        path.write_text(json.dumps(document))
        return path

    def put(self, *documents: Mapping[str, Any]) -> None:
        """Create or replace objects."""
        for document in documents:
            self._call(lambda document=document: self._double.put(document))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self._call(lambda: self._double.delete(kind, namespace, name))

    def look(self, function: Callable[[Double], T]) -> T:
        """What `function` finds in, or does to, the double."""
        return self._call(lambda: function(self._double))

    def forget(self, count: int) -> None:
        """Drop the oldest `count` events of pods that every watch has long had: a long run must not grow."""
        history = self._double.collections["/api/v1/pods"].history
        self._call(lambda: history.__delitem__(slice(0, max(0, len(history) - count))))

    def outage(self) -> None:
        """Break all connections and refuse new ones."""
        asyncio.run_coroutine_threadsafe(self._double.stop(), self._loop).result(5)

    def resume(self) -> None:
        """End an outage."""
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(10)

    def start(self) -> None:
        self._thread.start()
        assert self._namespace or self._served.wait(10), "the double does not listen"

    def close(self) -> None:
        self._ended.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _call(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(5)

    def _run(self) -> None:
        waiting = asyncio.run_coroutine_threadsafe(self._serve(), self._loop)
        self._loop.run_forever()
        waiting.cancel()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """Watches that nobody reads any more end with the server."""
        await self._double.stop()
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self) -> None:
        listener = await listen_in(self._namespace, self._ended.is_set) if self._namespace else None
        if listener or not self._namespace:
            url = await self._double.start(listener)
            self._url = self._url if self._namespace else url
            self._served.set()


async def listen_in(namespace: Path, ended: Callable[[], bool]) -> socket.socket | None:
    """A listener inside a namespace that is about to be made; None if it never is."""
    while not namespace.exists() and not ended():  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and not ended():
        try:
            return netns.run_in(str(namespace), lambda: socket.create_server(("0.0.0.0", PORT)))
        except (OSError, KernelError):
            # The name is there a moment before the namespace is.
            await asyncio.sleep(0.01)
    return None
