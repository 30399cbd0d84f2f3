"""EndpointSlice (discovery.k8s.io/v1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates, names
from fairway_core.documents.schema.network import PortNumber, Protocol, family, routable_address
from fairway_core.documents.schema.text import DnsLabelOrEmpty, DnsSubdomain, dns_subdomain

MOST_ADDRESSES = 100
MOST_ENDPOINTS = 1000
MOST_PORTS = 100


class EndpointSliceMeta(ObjectMeta):
    """A slice's name is a DNS name; the label kubernetes.io/service-name ties it to its service."""

    name: DnsSubdomain


class EndpointConditions(ApiObject):
    """Null means unknown, which counts as ready."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class ObjectReference(ApiObject):
    """What the endpoint is; a Pod by name matters."""

    accepted = names("apiVersion fieldPath namespace resourceVersion uid")
    kind: str | None = None
    name: str | None = None


class Hint(ApiObject):
    """A zone or a node."""

    name: str


class EndpointHints(ApiObject):
    """Who should use the endpoint rather than others."""

    forZones: list[Hint] | None = None
    forNodes: list[Hint] | None = None


class Endpoint(ApiObject):
    """Addresses of one backend; all of them are interchangeable and only the first is used."""

    accepted = names("deprecatedTopology")
    addresses: list[str]
    conditions: EndpointConditions | None = None
    hints: EndpointHints | None = None
    hostname: DnsLabelOrEmpty | None = None
    nodeName: str | None = None
    targetRef: ObjectReference | None = None
    zone: str | None = None

    def rules(self) -> Iterator[Fault]:
        if not 1 <= len(self.addresses) <= MOST_ADDRESSES:
            yield Fault(("addresses",), f"must have between 1 and {MOST_ADDRESSES} addresses, not {len(self.addresses)}")


class EndpointPort(ApiObject):
    """A port of every endpoint; its name is that of the service port it answers for."""

    accepted = names("appProtocol")
    name: DnsLabelOrEmpty | None = None
    port: PortNumber | None = None
    protocol: Protocol | None = None


class EndpointSlice(ApiObject):
    """discovery.k8s.io/v1 EndpointSlice."""

    apiVersion: str
    kind: str
    metadata: EndpointSliceMeta
    addressType: Literal["IPv4", "IPv6", "FQDN"]
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None

    def rules(self) -> Iterator[Fault]:
        ports, endpoints = self.ports or [], self.endpoints or []
        if len(endpoints) > MOST_ENDPOINTS:
            yield Fault(("endpoints",), f"at most {MOST_ENDPOINTS} endpoints per slice, not {len(endpoints)}")
        if len(ports) > MOST_PORTS:
            yield Fault(("ports",), f"at most {MOST_PORTS} ports per slice, not {len(ports)}")
        for index in duplicates([port.name or "" for port in ports]):
            yield Fault(("ports", index, "name"), f"duplicate port name {ports[index].name or ''!r}")
        for number, endpoint in enumerate(endpoints):
            for index, address in enumerate(endpoint.addresses):
                problem = self._problem(address)
                if problem:
                    yield Fault(("endpoints", number, "addresses", index), problem)

    def _problem(self, address: str) -> str:
        try:
            if self.addressType == "FQDN":
                dns_subdomain(address)
                return ""
            routable_address(address)
        except ValueError as fault:
            return str(fault)
        return "" if self.addressType == f"IPv{family(address)}" else f"{address} is not of addressType {self.addressType}"
