"""The query log of all DNS workers as a file of JSON lines, with the names of pods, in bounded space."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from fairway_core.world import World
from fairway_dns.reports import Lines

LARGEST = 16 << 20
"""Octets; then the file becomes FILE.1, in place of the one before it."""
WAITING = 16
"""Batches that wait for the disk; further ones are dropped and counted."""


class QueryFile:
    """Promise: `take` never waits; a disk that is slow, full or gone costs lines and nothing else."""

    def __init__(self, path: Path, pod_of: Callable[[str], str], log: logging.Logger) -> None:
        """`pod_of` gives NAMESPACE/POD of an address, empty if it is nobody's."""
        self._path = path
        self._pod_of = pod_of
        self._log = log
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queries")
        self._waiting: list[Future[None]] = []
        self._dropped = 0
        self._failed = False

    def take(self, lines: Lines) -> None:
        """Write what a worker has told."""
        self._dropped += lines.dropped
        self._waiting = [future for future in self._waiting if not future.done()]
        if len(self._waiting) >= WAITING:
            self._dropped += len(lines.lines)
            return
        self._waiting.append(self._thread.submit(self._write, self._text(lines).encode()))

    def close(self) -> None:
        """Write what waits."""
        self._thread.shutdown(wait=True)

    def _text(self, lines: Lines) -> str:
        made = []
        if self._dropped:
            made.append(json.dumps({"dropped": self._dropped}))
            self._dropped = 0
        for line in lines.lines:
            pod = self._pod_of(line.source)
            told = {
                "time": line.time,
                "source": line.source,
                **({"pod": pod} if pod else {}),
                "name": line.name,
                "type": line.type,
            }
            told |= {"rcode": line.rcode, "ms": line.ms, "path": line.path, "transport": line.transport}
            made.append(json.dumps(told))
        return "".join(f"{text}\n" for text in made)

    def _write(self, data: bytes) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size + len(data) > LARGEST:
                self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            # Who asks for what is not for everybody's eyes.
            with open(self._path, "ab", opener=_private) as file:
                file.write(data)
            self._failed = False
        except OSError as error:
            if not self._failed:
                self._log.error("query log cannot be written: %s", error)
            self._failed = True


def pod_titles(world: Callable[[], World]) -> Callable[[str], str]:
    """NAMESPACE/POD of an address, as of now; empty if it is nobody's."""

    def title(address: str) -> str:
        pod = world().pod_of_ip(address)
        return f"{pod.meta.namespace}/{pod.meta.name}" if pod is not None else ""

    return title


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
