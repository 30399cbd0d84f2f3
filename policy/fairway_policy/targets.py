"""From the names people write to the connections to be judged."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.errors import UserError
from fairway_core.model import Pod, Service, ServicePort
from fairway_core.model.meta import FAMILIES, Family, family_of
from fairway_core.world import SERVICE_IP, World
from fairway_policy.offers import Door, offered

Place = str | Pod | Service
WITHOUT_PORTS = frozenset({"ICMP", "ICMPV6"})
PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"}) | WITHOUT_PORTS


@dataclass(frozen=True, slots=True)
class Attempt:
    """One connection to be judged: addresses of one family, as they are after service translation."""

    source: str
    destination: str
    protocol: str
    port: int


def place(world: World, text: str, port: int | None = None) -> Place:
    """What `text` names: an address, `namespace/name` of a pod or service, or `pod/…` or `service/…` in front to be exact.

    An address of a pod is that pod, a virtual address its service. Of a pod and a service with the same name the service is
    meant if it has `port`, or if no port is given. Raises UserError for what is not there.
    """
    parts = text.split("/")
    if len(parts) == 1:
        return _by_address(world, text)
    kind = parts[0] if len(parts) == 3 else ""
    if len(parts) > 3 or kind not in ("", "pod", "service"):
        raise UserError(f"{text!r} names neither an address nor namespace/name of a pod or service")
    namespace, name = parts[-2:]
    pod = world.pod(namespace, name) if kind != "service" else None
    service = world.service(namespace, name) if kind != "pod" else None
    if service is not None and (pod is None or port is None or any(item.port == port for item in service.ports)):
        return service
    if pod is None:
        raise UserError(_unknown(world, namespace, name, kind or "pod or service"))
    return pod


def _by_address(world: World, text: str) -> Place:
    try:
        address = str(ip_address(text))
    except ValueError as error:
        raise UserError(f"{text!r} is no address; write namespace/name for a pod or service") from error
    services = world.at(Service, SERVICE_IP, address)
    return services[0] if services else world.pod_of_ip(address) or address


def _unknown(world: World, namespace: str, name: str, what: str) -> str:
    here = [pod.meta.name for pod in world.pods() if pod.meta.namespace == namespace]
    here += [service.meta.name for service in world.services() if service.meta.namespace == namespace]
    if not here:
        known = sorted({pod.meta.namespace for pod in world.pods()})
        return f"no {what} {namespace}/{name}: namespace {namespace} has none; pods are in: {', '.join(known) or 'no namespace'}"
    return f"no {what} {namespace}/{name}; in namespace {namespace} there are: {', '.join(sorted(set(here))[:10])}"


def addresses(where: str | Pod) -> tuple[str, ...]:
    """The addresses of an end that is no service. Raises UserError for a pod that has none."""
    if isinstance(where, str):
        return (where,)
    if not where.ips:
        raise UserError(f"pod {where.meta.namespace}/{where.meta.name} has no address (yet): phase {where.phase}")
    if where.finished:
        raise UserError(f"pod {where.meta.namespace}/{where.meta.name} has finished; its addresses may be another pod's by now")
    return where.ips


def source_of(world: World, text: str) -> str | Pod:
    """The end that begins the connection. Raises UserError for a service."""
    found = place(world, text)
    if isinstance(found, Service):
        raise UserError(f"service {found.meta.namespace}/{found.meta.name} does not begin connections; name a pod or an address")
    return found


def attempts(
    world: World, source: str | Pod, destination: Place, port: int | None, protocol: str, through: str = ""
) -> list[Attempt]:
    """Every connection the question stands for: one per family the ends share; for a service one per backend that the source
    may get through the address `through`, or the virtual IPs. Empty if there is none.

    Raises UserError if a needed port is missing or the ends share no family.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is not one of {', '.join(sorted(PROTOCOLS))}")
    if isinstance(destination, Service):
        return _to_service(world, source, destination, service_port(destination, port, protocol), through)
    if protocol in WITHOUT_PORTS:
        port = 0
    if port is None:
        raise UserError(f"which port? Write DST:PORT or DST:PORT/PROTO{_declared(destination)}")
    pairs = [(a, b) for a in addresses(source) for b in addresses(destination) if family_of(a) == family_of(b)]
    if not pairs:
        raise UserError("the two ends have no address family in common")
    return [Attempt(a, b, protocol, port) for a, b in pairs]


def _declared(destination: str | Pod) -> str:
    ports = [f"{port.port}/{port.protocol}" for port in destination.ports] if isinstance(destination, Pod) else []
    return f"; the pod declares {', '.join(ports)}" if ports else ""


def service_port(service: Service, port: int | None, protocol: str) -> ServicePort:
    """The port of a service a question means: its only one if none is given. Raises UserError listing what there is."""
    found = [item for item in service.ports if item.protocol == protocol and port in (None, item.port)]
    if len(found) == 1:
        return found[0]
    name = f"service {service.meta.namespace}/{service.meta.name}"
    ports = ", ".join(f"{item.port}/{item.protocol}" for item in service.ports) or "no ports"
    asked = f"has no port {port}/{protocol}" if port is not None and not found else "needs a port"
    raise UserError(f"{name} {asked}; it has {ports}")


def _to_service(world: World, source: str | Pod, service: Service, port: ServicePort, through: str) -> list[Attempt]:
    found = []
    for family in _families(service, through):
        own = next((ip for ip in addresses(source) if family_of(ip) == family), None)
        if own is not None:
            chosen = offered(world, source, Door(service, port, family, through)).backends
            found += [Attempt(own, backend.ip, port.protocol, backend.port) for backend in chosen]
    return found


def nothing_offered(world: World, source: str | Pod, service: Service, port: ServicePort, through: str = "") -> str:
    """Why there are no attempts, in words; empty for want of any backend."""
    doors = [Door(service, port, family, through) for family in _families(service, through)]
    return next((reason for door in doors if (reason := offered(world, source, door).reason)), "")


def _families(service: Service, through: str) -> list[Family]:
    if through:
        return [family_of(through)]
    served = {family_of(ip) for ip in service.cluster_ips}
    return [family for family in FAMILIES if family in served or not served]
