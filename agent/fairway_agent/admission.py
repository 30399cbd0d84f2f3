"""What happens to a user's documents before they are stored: defaults that must be decided once and kept. Pure.

Services get their ClusterIPs and node ports here, from ranges, and keep them for life (Kubernetes API reference, ServiceSpec:
`clusterIP` and `nodePort` are allocated by the API server). Fields only the system writes (status) survive an apply.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from fairway_core.codec import key_of
from fairway_core.errors import ExhaustedError, UserError
from fairway_core.keys import Key
from fairway_core.model import Service, family_of
from fairway_core.model.service import NO_CLUSTER_IP
from fairway_core.world import SERVICE_IP, SERVICE_NODE_PORT, World

NODE_PORTS = range(30000, 32768)

Document = Mapping[str, Any]


@dataclass(slots=True)
class Ranges:
    """Where addresses and ports come from, and who has them: services of the world, and what this apply has claimed so far.

    Each question costs the same however many services there are.
    """

    cidrs: tuple[IPv4Network | IPv6Network, ...]
    world: World
    ips: dict[str, Key] = field(default_factory=dict)
    node_ports: dict[tuple[int, str], Key] = field(default_factory=dict)

    def claim_ip(self, key: Key, text: str) -> str:
        """Take a given address. Raises UserError if another service has it."""
        address = ip_address(text)
        same = [cidr for cidr in self.cidrs if cidr.version == address.version]
        if same and not any(address in cidr for cidr in same):
            raise UserError(f"{key}: spec.clusterIP: {address} is not in the service range {', '.join(map(str, same))}")
        return self._claim_ip(key, str(address))

    def _claim_ip(self, key: Key, address: str) -> str:
        stored = (holder for holder in self.world.keys_at(SERVICE_IP, address) if self._has_cluster_ip(holder, address))
        holder = self.ips.get(address) or min((other for other in stored if other != key), default=key)
        if holder != key:
            raise UserError(f"{key}: spec.clusterIP: {address} belongs to {holder}")
        self.ips[address] = key
        return address

    def _has_cluster_ip(self, key: Key, address: str) -> bool:
        service = self.world.get(key)
        return isinstance(service, Service) and address in service.cluster_ips

    def new_ip(self, key: Key, cidr: IPv4Network | IPv6Network) -> str:
        """A free address, network and broadcast addresses left out. Raises ExhaustedError."""
        size = min(cidr.num_addresses - 2, 65534)
        if size < 1:
            raise ExhaustedError(f"service range {cidr} has no usable address")
        # The search starts at a place that depends on the name, so that a recreated service tends to get its address back.
        start = int.from_bytes(blake2b(str(key).encode(), digest_size=8).digest(), "big")
        base = int(cidr.network_address) + 1
        for step in range(size):
            address = str(ip_address(base + (start + step) % size))
            if address not in self.ips and not self.world.keys_at(SERVICE_IP, address):
                self.ips[address] = key
                return address
        raise ExhaustedError(f"service range {cidr} is exhausted: {size} of {size} addresses in use")

    def claim_port(self, key: Key, port: int, protocol: str) -> int:
        """Take a given node port. Raises UserError if another service has it for the protocol."""
        stored = self.world.keys_at(SERVICE_NODE_PORT, str(port), protocol)
        holder = self.node_ports.get((port, protocol)) or min((other for other in stored if other != key), default=key)
        if holder != key:
            raise UserError(f"{key}: spec.ports: nodePort {port}/{protocol} belongs to {holder}")
        self.node_ports[port, protocol] = key
        return port

    def new_port(self, key: Key, protocol: str) -> int:
        """A free node port. Raises ExhaustedError."""
        for port in NODE_PORTS:
            if (port, protocol) not in self.node_ports and not self.world.keys_at(SERVICE_NODE_PORT, str(port), protocol):
                return self.claim_port(key, port, protocol)
        raise ExhaustedError(f"node ports {NODE_PORTS.start}-{NODE_PORTS.stop - 1}/{protocol} are exhausted")


def ranges_from(cidrs: Sequence[str], world: World, applied: Sequence[Document]) -> Ranges:
    """What is taken: by services of the world, and by what `applied` ones ask for by name, before anything new is given out.

    Raises UserError if an applied service asks for what another has.
    """
    ranges = Ranges(tuple(ip_network(cidr) for cidr in cidrs), world)
    for document in applied:
        key, spec = key_of(document), document.get("spec") or {}
        for ip in _given_ips(spec):
            ranges.claim_ip(key, ip)
        for port, protocol in _given_ports(spec):
            ranges.claim_port(key, port, protocol)
        if _checks_health(spec) and spec.get("healthCheckNodePort"):
            ranges.claim_port(key, spec["healthCheckNodePort"], "TCP")
    return ranges


def _checks_health(spec: Mapping[str, Any]) -> bool:
    """Whether load balancers ask the node about the service (Kubernetes API reference, ServiceSpec: healthCheckNodePort)."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _given_ports(spec: Mapping[str, Any]) -> list[tuple[int, str]]:
    ports = spec.get("ports") or ()
    return [(port["nodePort"], port.get("protocol") or "TCP") for port in ports if port.get("nodePort")]


def _given_ips(spec: Mapping[str, Any]) -> list[str]:
    ips = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    return [ip for ip in ips if ip != NO_CLUSTER_IP]


def admit(document: Document, before: Document | None, ranges: Ranges, running: bool = False) -> dict[str, Any]:
    """The document to store: the user's, completed. `before` is the stored one, if there is one. Raises UserError.

    Of a `running` pod, one with a container on this node, status and spec.nodeName are facts and stay, whatever the user writes.
    """
    result = dict(document)
    if before is not None and "status" in before and (running or "status" not in document):
        result["status"] = before["status"]
    if before is not None and running:
        result["spec"] = {**(document.get("spec") or {}), "nodeName": (before.get("spec") or {}).get("nodeName", "")}
    if document.get("kind") == "Service":
        result["spec"] = _service_spec(key_of(document), dict(document.get("spec") or {}), before, ranges)
    return result


def _service_spec(key: Key, spec: dict[str, Any], before: Document | None, ranges: Ranges) -> dict[str, Any]:
    if spec.get("type") == "ExternalName":
        return spec
    old = dict((before or {}).get("spec") or {}) if (before or {}).get("kind") == "Service" else {}
    _cluster_ips(key, spec, old, ranges)
    spec["ports"] = list(_ports(key, spec, old, ranges))
    if _checks_health(spec):
        given = spec.get("healthCheckNodePort") or (old.get("healthCheckNodePort") if _checks_health(old) else None)
        spec["healthCheckNodePort"] = ranges.claim_port(key, given, "TCP") if given else ranges.new_port(key, "TCP")
    return spec


def _cluster_ips(key: Key, spec: dict[str, Any], old: Mapping[str, Any], ranges: Ranges) -> None:
    wanted = spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else [])
    if wanted[:1] == [NO_CLUSTER_IP]:
        spec["clusterIP"], spec["clusterIPs"] = NO_CLUSTER_IP, [NO_CLUSTER_IP]
        return
    ips = [ranges.claim_ip(key, ip) for ip in wanted or _given_ips(old)]
    for cidr in _families(spec, ranges):
        if not any(family_of(ip) == cidr.version for ip in ips):
            ips.append(ranges.new_ip(key, cidr))
    spec["clusterIP"], spec["clusterIPs"] = (ips[0] if ips else ""), ips


def _families(spec: Mapping[str, Any], ranges: Ranges) -> Iterator[IPv4Network | IPv6Network]:
    """One range per family the service wants (Kubernetes ipFamilies and ipFamilyPolicy): SingleStack unless it says else."""
    named = [{"IPv4": 4, "IPv6": 6}[name] for name in spec.get("ipFamilies") or ()]
    policy = spec.get("ipFamilyPolicy") or ("PreferDualStack" if len(named) > 1 else "SingleStack")
    order: list[int] = [*named, *(cidr.version for cidr in ranges.cidrs)]
    wanted = list(dict.fromkeys(order))[: 1 if policy == "SingleStack" else 2]
    found: dict[int, IPv4Network | IPv6Network] = {cidr.version: cidr for cidr in reversed(ranges.cidrs)}
    missing = [version for version in wanted if version not in found]
    if missing or (policy == "RequireDualStack" and len(wanted) < 2):
        raise UserError(f"spec.ipFamilies: no service range for {'IPv' + str(missing[0]) if missing else 'a second family'}")
    yield from (found[version] for version in wanted)


def _ports(key: Key, spec: Mapping[str, Any], old: Mapping[str, Any], ranges: Ranges) -> Iterator[dict[str, Any]]:
    exposed = spec.get("type") in ("NodePort", "LoadBalancer")
    held = {(p["port"], p.get("protocol") or "TCP"): p.get("nodePort") for p in old.get("ports") or ()}
    for port in spec.get("ports") or ():
        done = dict(port)
        protocol = done.setdefault("protocol", "TCP")
        given = done.get("nodePort") or (held.get((done["port"], protocol)) if exposed else None)
        if exposed:
            done["nodePort"] = ranges.claim_port(key, given, protocol) if given else ranges.new_port(key, protocol)
        yield done
