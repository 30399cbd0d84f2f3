"""Which endpoints a node uses: near ones where the slices say so, local ones where the traffic policy demands it. Pure.

Source: kube-proxy 1.33 (pkg/proxy/topology.go), KEP-2433 (topology hints), KEP-4444 and KEP-3015 (trafficDistribution),
KEP-1669 (terminating endpoints).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from fairway_core.endpoints import Backend, usable
from fairway_core.model import Service


class Way(Enum):
    """Whom a way in leads to: every endpoint that suits the node, this node's alone, or this node's for clients outside and
    every one for those inside (this node and its pods).
    """

    ALL = "all"
    HERE = "here"
    EDGE = "edge"


def way_of(service: Service, address: str) -> Way:
    """By its virtual IP the internal traffic policy counts; by any other address, or a node port (empty), the external one."""
    if address in service.cluster_ips:
        return Way.HERE if service.internal_policy_local else Way.ALL
    return Way.EDGE if service.external_policy_local else Way.ALL


@dataclass(frozen=True, slots=True)
class Location:
    """Where traffic starts: a node, and its zone, empty if unknown."""

    node: str
    zone: str = ""


def chosen(candidates: Sequence[Backend], here: Location, local: bool) -> list[Backend]:
    """The backends that get new connections from `here`; `local` for traffic policy Local.

    Promise: never empty while a candidate is ready, if not `local`. Hints are a preference: they narrow the ready backends to
    those for this node, or else for this zone, only if every ready backend has such a hint and at least one names this place.
    Those that serve while they terminate are used if none is ready; hints do not matter then.
    """
    if local:
        return usable([backend for backend in candidates if backend.node_name == here.node])
    ready = [backend for backend in candidates if backend.ready]
    if not ready:
        return usable(candidates)
    return (
        _hinted(ready, here.node, lambda backend: backend.for_nodes) or _hinted(ready, here.zone, lambda b: b.for_zones) or ready
    )


def _hinted(ready: Sequence[Backend], place: str, hints: Callable[[Backend], Sequence[str]]) -> list[Backend]:
    return [backend for backend in ready if place in hints(backend)] if all(map(hints, ready)) else []
