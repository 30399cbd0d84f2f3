"""Services and their endpoints (v1 Service, discovery.k8s.io/v1 EndpointSlice)."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta
from fairway_core.selectors import Selector

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
NO_CLUSTER_IP = "None"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a service. `target` is a number, or the name of a container port; `node_port` 0 means none."""

    port: int
    protocol: str = "TCP"
    name: str = ""
    target: int | str = 0
    node_port: int = 0


@dataclass(frozen=True, slots=True)
class Service:
    """A name and a virtual IP for a set of endpoints. `selector` None means endpoints are declared by hand.

    `load_balancer_ips` are those served here (ipMode VIP); `source_ranges` who may use them, anybody if empty.
    `health_check_port` 0 means none.
    """

    meta: Meta
    type: str = "ClusterIP"
    cluster_ips: tuple[str, ...] = ()
    headless: bool = False
    selector: Selector | None = None
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    external_name: str = ""
    publish_not_ready: bool = False
    affinity_seconds: int = 0
    internal_policy_local: bool = False
    external_policy_local: bool = False
    traffic_distribution: str = ""
    source_ranges: tuple[str, ...] = ()
    health_check_port: int = 0


@dataclass(frozen=True, slots=True)
class ServiceCIDR:
    """Ranges that an API server gives virtual IPs from, beside those it was started with (KEP-1880). Canonical CIDR text."""

    meta: Meta
    cidrs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SlicePort:
    """A port of an EndpointSlice; `name` ties it to the service port of that name. `port` 0 means any."""

    name: str
    port: int
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Addresses that answer for a service, whether they should be used now, and by whom rather than by others: the zones and
    nodes in `for_zones` and `for_nodes` (topology hints).
    """

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    hostname: str = ""
    node_name: str = ""
    pod: str = ""
    zone: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """Endpoints of one service with the same ports and address family (4 or 6)."""

    meta: Meta
    service: str
    family: int
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[SlicePort, ...] = ()
