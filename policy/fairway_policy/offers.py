"""The backends of a service that a client can get: what the rules of the node it starts from, or enters by, choose among."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from fairway_core.endpoints import Backend, backends, usable
from fairway_core.model import Node, Pod, Service, ServicePort
from fairway_core.model.meta import Family, family_of
from fairway_core.topology import Location, Way, chosen, way_of
from fairway_core.world import KIND, World


@dataclass(frozen=True, slots=True)
class Door:
    """One way to a service port: by `address`, or by the virtual IP of `family` if that is empty."""

    service: Service
    port: ServicePort
    family: Family
    address: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client gets. `reason` says why that is nothing although there are backends."""

    backends: tuple[Backend, ...]
    reason: str = ""


def offered(world: World, source: str | Pod, door: Door) -> Offer:
    """The backends that new connections of `source` may get.

    Promise: as the proxy chooses on the source's node: traffic policies, topology hints, those that serve while they terminate
    if none is ready. A client outside enters by any node: the choices of all of them together. The endpoints of a headless
    service are not chosen among; their addresses come from DNS.
    """
    service = door.service
    candidates = backends(world.slices_of(service.meta.namespace, service.meta.name), door.port, door.family)
    if service.headless:
        return Offer(tuple(usable(candidates)))
    node = _node_of(world, source)
    if stranger := _shut_out(source, door):
        return Offer((), f"dropped, since loadBalancerSourceRanges of the service do not include {stranger}")
    local = _way(door) is Way.HERE or (_way(door) is Way.EDGE and not node)
    places = [node] if node else sorted(_nodes(world, candidates))
    picked = {backend for place in places for backend in chosen(candidates, Location(place, world.zone_of(place)), local)}
    if local and not picked and usable(candidates):
        return Offer(
            (), f"dropped, by traffic policy Local, since no usable backend is on {f'node {node}' if node else 'any node'}"
        )
    return Offer(tuple(sorted(picked)))


def _way(door: Door) -> Way:
    if door.address:
        return way_of(door.service, door.address)
    return Way.HERE if door.service.internal_policy_local else Way.ALL


def _node_of(world: World, source: str | Pod) -> str:
    """The node whose rules translate; empty for a client outside."""
    if isinstance(source, Pod):
        return source.node_name
    return next((node.meta.name for node in _known(world) if source in node.addresses), "")


def _known(world: World) -> list[Node]:
    return world.at(Node, KIND, "Node")


def _nodes(world: World, candidates: Sequence[Backend]) -> set[str]:
    """Nodes a client outside may enter by. Without Node objects there are at least those with backends."""
    return {node.meta.name for node in _known(world)} | {backend.node_name for backend in candidates}


def _shut_out(source: str | Pod, door: Door) -> str:
    """The source's address, if the service's source ranges keep it from its load balancer's address; else empty."""
    if door.address not in door.service.load_balancer_ips or not door.service.source_ranges:
        return ""
    own = (source,) if isinstance(source, str) else source.ips
    address = next((ip for ip in own if family_of(ip) == door.family), "")
    inside = address and any(ip_address(address) in ip_network(cidr) for cidr in door.service.source_ranges)
    return "" if inside else address
