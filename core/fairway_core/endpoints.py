"""From services and pods to endpoints, and from endpoints to the backends one service port uses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fairway_core.model.meta import FAMILIES, Family, Meta, family_of
from fairway_core.model.pod import Pod
from fairway_core.model.service import SERVICE_NAME_LABEL, Endpoint, EndpointSlice, Service, ServicePort, SlicePort

MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "fairway.dev"

DERIVED = ":"
"""Part of every derived slice's name and of no stored one's, because object names are DNS names: the two never meet."""


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """One address and port that answers for a service port."""

    ip: str
    port: int
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    pod: str = ""
    hostname: str = ""
    for_zones: tuple[str, ...] = ()
    for_nodes: tuple[str, ...] = ()


SAME_ZONE = frozenset({"PreferClose", "PreferSameZone"})
SAME_NODE = "PreferSameNode"


def derive_slices(service: Service, pods: Sequence[Pod], zone_of: Callable[[str], str] = lambda node: "") -> list[EndpointSlice]:
    """The EndpointSlices of a service with a selector, from the pods it matches (sorted).

    Promise: one slice per family and set of target ports (named target ports may resolve differently per pod), in a fixed
    order; a pod without an address, on the host network's behalf finished, or lacking a named port is left out of that port.
    `zone_of` gives a node's zone. Ready endpoints get the hints that the service's trafficDistribution asks for.
    Source: EndpointSlice controller semantics, Kubernetes documentation "EndpointSlices".
    """
    groups: dict[tuple[Family, tuple[SlicePort, ...]], list[Endpoint]] = defaultdict(list)
    for pod in pods:
        if not pod.ips or pod.finished:
            continue
        ports = _resolve_ports(service, pod)
        for family in FAMILIES:
            address = next((ip for ip in pod.ips if family_of(ip) == family), None)
            if address is not None and (ports or not service.ports):
                groups[family, ports].append(_endpoint(service, pod, address, zone_of(pod.node_name)))
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], repr(item[0][1])))
    return [_slice(service, number, *group) for number, group in enumerate(ordered)]


def _resolve_ports(service: Service, pod: Pod) -> tuple[SlicePort, ...]:
    resolved = []
    for port in service.ports:
        number = _target_port(port, pod)
        if number is not None:
            resolved.append(SlicePort(port.name, number, port.protocol))
    return tuple(resolved)


def _target_port(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.target, int):
        return port.target or port.port
    matching = (p.port for p in pod.ports if p.name == port.target and p.protocol == port.protocol)
    return next(matching, None)


def _endpoint(service: Service, pod: Pod, address: str, zone: str) -> Endpoint:
    # Kubernetes: a terminating pod is never ready, but it still serves while its readiness holds.
    ready = (pod.ready and not pod.terminating) or service.publish_not_ready
    same_node = service.traffic_distribution == SAME_NODE
    near = ready and (same_node or service.traffic_distribution in SAME_ZONE)
    return Endpoint(
        addresses=(address,),
        ready=ready,
        serving=pod.ready or service.publish_not_ready,
        terminating=pod.terminating,
        hostname=pod.hostname if pod.subdomain == service.meta.name else "",
        node_name=pod.node_name,
        pod=pod.meta.name,
        zone=zone,
        for_zones=(zone,) if near and zone else (),
        for_nodes=(pod.node_name,) if near and same_node and pod.node_name else (),
    )


def _slice(
    service: Service, number: int, group: tuple[Family, tuple[SlicePort, ...]], endpoints: list[Endpoint]
) -> EndpointSlice:
    family, ports = group
    labels = {SERVICE_NAME_LABEL: service.meta.name, MANAGED_BY: MANAGER}
    meta = Meta(f"{service.meta.name}{DERIVED}{number}", service.meta.namespace, labels)
    return EndpointSlice(meta, service.meta.name, family, tuple(endpoints), ports)


def backends(slices: Iterable[EndpointSlice], port: ServicePort, family: Family) -> list[Backend]:
    """Every endpoint of one service port in one family, each address and port once, sorted; ready or not.

    An endpoint that appears in several slices is as ready as its readiest appearance (KEP-752, duplicate endpoints).
    """
    found: dict[tuple[str, int], Backend] = {}
    for item in slices:
        if item.family != family:
            continue
        number = next((p.port for p in item.ports if p.name == port.name and p.protocol == port.protocol), None)
        if number is None:
            continue
        for endpoint in item.endpoints:
            backend = _backend(endpoint, number or _number(port))
            known = found.get((backend.ip, backend.port))
            if known is None or (backend.ready, backend.serving) > (known.ready, known.serving):
                found[backend.ip, backend.port] = backend
    return sorted(found.values())


def _number(port: ServicePort) -> int:
    return port.target if isinstance(port.target, int) and port.target else port.port


def _backend(endpoint: Endpoint, port: int) -> Backend:
    return Backend(
        endpoint.addresses[0],
        port,
        endpoint.ready,
        endpoint.serving,
        endpoint.terminating,
        endpoint.node_name,
        endpoint.pod,
        endpoint.hostname,
        endpoint.for_zones,
        endpoint.for_nodes,
    )


def usable(candidates: Sequence[Backend]) -> list[Backend]:
    """The backends that get new connections: the ready ones; if there are none, those that still serve while terminating.

    Source: KEP-1669 (proxy terminating endpoints).
    """
    ready = [backend for backend in candidates if backend.ready]
    return ready or [backend for backend in candidates if backend.serving and backend.terminating]
