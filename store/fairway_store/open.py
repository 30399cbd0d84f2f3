"""The store a configuration asks for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fairway_core.errors import UserError
from fairway_store.api import Store
from fairway_store.memory import MemoryStore
from fairway_store.sqlite import SqliteStore

if TYPE_CHECKING:
    from fairway_store.kubernetes.access import Access
    from fairway_store.kubernetes.writer import ClusterWriter

KINDS = ("sqlite", "memory", "kubernetes")

Report = Callable[[str, str], None]
"""Called with a kind and what is wrong with following it, in words; empty when it is right again."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """How to reach the API server. No kubeconfig: the service account of the pod we run in; no servers: as written there."""

    report: Report
    log: logging.Logger
    kubeconfig: str = ""
    context: str = ""
    servers: tuple[str, ...] = field(default=())


async def open_store(kind: str, path: Path | str, cluster: ClusterOptions | None = None) -> Store:
    """The store of `kind` (KINDS). `path` is the file of kind sqlite, created with its folder if missing; memory ignores it.

    Kind kubernetes keeps in that file what belongs to the node; its reads wait until the API server has been listed once.
    Raises UserError for an unknown kind or credentials that cannot be used, StoreUnavailable if the file cannot be used.
    """
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite":
        return await SqliteStore.open(path)
    if kind == "kubernetes" and cluster is not None:
        return await _open_cluster(Path(path), cluster)
    raise UserError(f"unknown kind of store {kind!r}; known kinds: {', '.join(KINDS)}")


async def _open_cluster(path: Path, options: ClusterOptions) -> Store:
    # Imported here: a node without a cluster should not pay for an HTTP client.
    from fairway_store.composite import CompositeStore
    from fairway_store.kubernetes.resources import LOCAL
    from fairway_store.kubernetes.store import KubernetesStore

    cluster = KubernetesStore(_access(options), options.report, options.log)
    store = CompositeStore(await SqliteStore.open(path), cluster, LOCAL)
    await store.load()
    cluster.start()
    return store


def open_writer(options: ClusterOptions) -> ClusterWriter:
    """What the agent writes to the API server with. Raises UserError for credentials that cannot be used."""
    from fairway_store.kubernetes.client import ApiClient
    from fairway_store.kubernetes.timing import Timing
    from fairway_store.kubernetes.writer import KubernetesWriter

    return KubernetesWriter(ApiClient(_access(options), Timing(), options.log))


def _access(options: ClusterOptions) -> Access:
    from fairway_store.kubernetes.access import from_kubeconfig, in_cluster, with_servers

    access = from_kubeconfig(Path(options.kubeconfig), options.context) if options.kubeconfig else in_cluster()
    return with_servers(access, options.servers)
