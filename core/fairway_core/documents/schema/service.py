"""Service (v1). Source of the rules: Kubernetes API reference, Service v1; ValidateService."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates, names
from fairway_core.documents.schema.network import (
    AddressOrEmpty,
    Cidr,
    PortNumber,
    PortOrZero,
    Protocol,
    RoutableAddress,
    TargetPort,
    family,
    parse_address,
)
from fairway_core.documents.schema.text import DnsLabel1035, DnsLabelOrEmpty, ExternalName, LabelKey, LabelValue

NO_IP = "None"
LONGEST_AFFINITY = 86400


class ServiceMeta(ObjectMeta):
    """A service's name is a DNS label."""

    name: DnsLabel1035


class ServicePort(ApiObject):
    """One port of the virtual IP."""

    accepted = names("appProtocol")
    port: PortNumber
    name: DnsLabelOrEmpty | None = None
    protocol: Protocol | None = None
    targetPort: TargetPort | None = None
    nodePort: PortOrZero | None = None


class ClientIPConfig(ApiObject):
    """How long a client stays with its backend, in seconds."""

    timeoutSeconds: int | None = None

    def rules(self) -> Iterator[Fault]:
        if self.timeoutSeconds is not None and not 1 <= self.timeoutSeconds <= LONGEST_AFFINITY:
            yield Fault(("timeoutSeconds",), f"must be between 1 and {LONGEST_AFFINITY} seconds, not {self.timeoutSeconds}")


class SessionAffinityConfig(ApiObject):
    """Only ClientIP is defined."""

    clientIP: ClientIPConfig | None = None


class ServiceSpec(ApiObject):
    """The virtual IPs, their ports, and who answers."""

    accepted = names("allocateLoadBalancerNodePorts loadBalancerClass loadBalancerIP")
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] | None = None
    selector: dict[LabelKey, LabelValue] | None = None
    ports: list[ServicePort] | None = None
    clusterIP: str | None = None
    clusterIPs: list[str] | None = None
    ipFamilies: list[Literal["IPv4", "IPv6"]] | None = None
    ipFamilyPolicy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    externalIPs: list[RoutableAddress] | None = None
    externalName: ExternalName | None = None
    loadBalancerSourceRanges: list[Cidr] | None = None
    sessionAffinity: Literal["None", "ClientIP"] | None = None
    sessionAffinityConfig: SessionAffinityConfig | None = None
    publishNotReadyAddresses: bool | None = None
    internalTrafficPolicy: Literal["Cluster", "Local"] | None = None
    externalTrafficPolicy: Literal["Cluster", "Local", ""] | None = None
    trafficDistribution: Literal["PreferClose", "PreferSameZone", "PreferSameNode"] | None = None
    healthCheckNodePort: PortOrZero | None = None

    def rules(self) -> Iterator[Fault]:
        yield from self._cluster_ip_rules()
        yield from self._type_rules()
        yield from self._port_rules()
        affinity = self.sessionAffinityConfig
        if affinity and affinity.clientIP and self.sessionAffinity != "ClientIP":
            yield Fault(("sessionAffinityConfig",), "needs sessionAffinity: ClientIP")
        if self.loadBalancerSourceRanges and self.type != "LoadBalancer":
            yield Fault(("loadBalancerSourceRanges",), "needs type LoadBalancer")
        if self.healthCheckNodePort and not (self.type == "LoadBalancer" and self.externalTrafficPolicy == "Local"):
            yield Fault(("healthCheckNodePort",), "needs type LoadBalancer and externalTrafficPolicy: Local")

    def _cluster_ip_rules(self) -> Iterator[Fault]:
        ips = self.clusterIPs or []
        for path, ip in [(("clusterIP",), self.clusterIP), *((("clusterIPs", index), ip) for index, ip in enumerate(ips))]:
            if ip not in (None, "", NO_IP):
                try:
                    parse_address(ip)
                except ValueError as fault:
                    yield Fault(path, f"{fault}, nor {NO_IP!r}")
        if "" in ips:
            yield Fault(("clusterIPs", ips.index("")), "must be an IP address or 'None'")
        if NO_IP in ips and len(ips) > 1:
            yield Fault(("clusterIPs",), "'None' must stand alone")
        elif len(ips) > 2 or (len(ips) == 2 and family(ips[0]) == family(ips[1])):
            yield Fault(("clusterIPs",), "at most one address per family")
        if self.clusterIP and ips and ips[0] != self.clusterIP:
            yield Fault(("clusterIPs", 0), f"must be the same as clusterIP, {self.clusterIP}")

    def _type_rules(self) -> Iterator[Fault]:
        if self.type == "ExternalName":
            if not self.externalName:
                yield Fault(("externalName",), "is required for type ExternalName")
            if self.clusterIP or self.clusterIPs:
                yield Fault(("clusterIP",), "type ExternalName has no virtual IP")
        elif not self.ports and not self._headless:
            yield Fault(("ports",), "is required unless the service is headless (clusterIP: None)")
        if self._headless and self.type in ("NodePort", "LoadBalancer"):
            yield Fault(("clusterIP",), f"type {self.type} needs a virtual IP, not 'None'")
        if self.externalTrafficPolicy and not (self._external or self.externalIPs):
            yield Fault(("externalTrafficPolicy",), "needs type NodePort or LoadBalancer, or externalIPs")

    @property
    def _headless(self) -> bool:
        return NO_IP in (self.clusterIP, *(self.clusterIPs or ()))

    @property
    def _external(self) -> bool:
        return self.type in ("NodePort", "LoadBalancer")

    def _port_rules(self) -> Iterator[Fault]:
        ports = self.ports or []
        for index, port in enumerate(ports):
            if len(ports) > 1 and not port.name:
                yield Fault(("ports", index, "name"), "is required when there are several ports")
            if port.nodePort and not self._external:
                yield Fault(("ports", index, "nodePort"), "needs type NodePort or LoadBalancer")
        for index in duplicates([port.name or index for index, port in enumerate(ports)]):
            yield Fault(("ports", index, "name"), f"duplicate port name {ports[index].name!r}")
        for index in duplicates([(port.protocol or "TCP", port.port) for port in ports]):
            yield Fault(("ports", index, "port"), f"duplicate port {ports[index].port}/{ports[index].protocol or 'TCP'}")
        node_ports = [(port.protocol or "TCP", port.nodePort or -index) for index, port in enumerate(ports)]
        for index, taken in enumerate(node_ports):
            if self.healthCheckNodePort and taken == ("TCP", self.healthCheckNodePort):
                yield Fault(("ports", index, "nodePort"), f"nodePort {taken[1]} is the healthCheckNodePort")
        for index in duplicates(node_ports):
            yield Fault(("ports", index, "nodePort"), f"duplicate nodePort {ports[index].nodePort}")


class LoadBalancerIngress(ApiObject):
    """An address a load balancer answers at."""

    accepted = names("hostname ipMode ports")
    ip: AddressOrEmpty | None = None


class LoadBalancerStatus(ApiObject):
    """Where the service can be reached from outside."""

    ingress: list[LoadBalancerIngress] | None = None


class ServiceStatus(ApiObject):
    """As somebody observed it."""

    accepted = names("conditions")
    loadBalancer: LoadBalancerStatus | None = None


class Service(ApiObject):
    """v1 Service."""

    apiVersion: str
    kind: str
    metadata: ServiceMeta
    spec: ServiceSpec
    status: ServiceStatus | None = None
