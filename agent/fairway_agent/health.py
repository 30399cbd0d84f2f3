"""What load balancers are told of this node: which services have endpoints here, and whether to send new traffic at all. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fairway_core.keys import Key
from fairway_core.model import EndpointSlice, Node, Service
from fairway_core.world import World
from fairway_proxy.compile import is_balanced, services_concerned

Name = tuple[str, str]
"""Namespace and name of a service."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer with a JSON body."""

    status: int
    body: Mapping[str, Any]
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class HealthCheck:
    """A service with a healthCheckNodePort, and how many ready endpoints it has on this node."""

    namespace: str
    name: str
    port: int
    endpoints: int

    def answer(self, fresh: bool) -> Answer:
        """As kube-proxy answers (pkg/proxy/healthcheck/service_health.go): 200 if an endpoint is here and rules are fresh."""
        service = {"namespace": self.namespace, "name": self.name}
        body = {"service": service, "localEndpoints": self.endpoints, "serviceProxyHealthy": fresh}
        headers = (("X-Content-Type-Options", "nosniff"), ("X-Load-Balancing-Endpoint-Weight", str(self.endpoints)))
        return Answer(200 if self.endpoints and fresh else 503, body, headers)


def health_check(world: World, name: Name, node: str) -> HealthCheck | None:
    """The check of one service; None if it has none. Endpoints are counted once each, whatever their families and ports."""
    service = world.service(*name)
    wants = isinstance(service, Service) and service.external_policy_local and is_balanced(service)
    if service is None or not wants or not service.health_check_port:
        return None
    counts = [len(_ready_here(world.slices_of(*name), family, node)) for family in (4, 6)]
    return HealthCheck(*name, service.health_check_port, max(counts))


def _ready_here(slices: list[EndpointSlice], family: int, node: str) -> set[str]:
    """Addresses: an endpoint may be in several slices."""
    endpoints = (endpoint for item in slices if item.family == family for endpoint in item.endpoints)
    return {endpoint.addresses[0] for endpoint in endpoints if endpoint.ready and endpoint.node_name == node}


def checks_changed(before: World, after: World, touched: frozenset[Key], node: str) -> dict[Name, HealthCheck | None]:
    """The checks of every service that a step concerns."""
    return {name: health_check(after, name, node) for name in services_concerned(before, after, touched)}


def eligible(world: World, node: str) -> bool:
    """Whether the node should get new connections from outside: not once it is about to go (KEP-3836). Unknown counts as yes."""
    found = world.get(Key("Node", "", node))
    return not (isinstance(found, Node) and found.leaving)


def proxy_health(fresh: bool, updated: float, now: float, stays: bool | None) -> Answer:
    """`/healthz` of kube-proxy; with `stays` None `/livez`, which knows nothing of the node's future.

    `updated` and `now` are seconds since the epoch, `updated` 0 for never.
    """
    body = {"lastUpdated": _time(updated) if updated else None, "currentTime": _time(now)}
    eligibility = {} if stays is None else {"nodeEligible": stays}
    return Answer(200 if fresh and stays is not False else 503, {**body, **eligibility}, (("X-Content-Type-Options", "nosniff"),))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
