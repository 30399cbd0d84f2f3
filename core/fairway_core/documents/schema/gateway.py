"""Gateway (gateway.networking.k8s.io/v1). Source of the rules: Gateway API specification 1.4, standard channel; fields of the
experimental channel are accepted and mean nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fairway_core.documents.errors import Fault, shown
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates, names
from fairway_core.documents.schema.network import PortNumber
from fairway_core.documents.schema.selector import LabelSelector
from fairway_core.documents.schema.text import DnsLabel, DnsSubdomain, dns_subdomain, or_empty

_PROTOCOL = re.compile(r"[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?|[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]+")
_KIND = re.compile(r"[a-zA-Z](?:[-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?")


def hostname(text: str) -> str:
    """A DNS name, or one below which all are meant: *.example.org."""
    dns_subdomain(text.removeprefix("*."))
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f"{shown(text)} is an address, not a name")
    return text


def _protocol(text: str) -> str:
    if len(text) > 255 or not _PROTOCOL.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a protocol (HTTP, HTTPS, TLS, TCP, UDP, or domain/name)")
    return text


def _kind(text: str) -> str:
    if not _KIND.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a kind")
    return text


Hostname = Annotated[str, AfterValidator(hostname)]
HostnameOrEmpty = Annotated[str, AfterValidator(or_empty(hostname))]
ListenerProtocol = Annotated[str, AfterValidator(_protocol)]
KindName = Annotated[str, AfterValidator(_kind)]
Group = Annotated[str, AfterValidator(or_empty(dns_subdomain))]


class GatewayMeta(ObjectMeta):
    """The name of a Gateway or a route is a DNS name."""

    name: DnsSubdomain


class ObjectReference(ApiObject):
    """An object, by default in the namespace of who refers to it."""

    group: Group | None = None
    kind: KindName | None = None
    name: str
    namespace: DnsLabel | None = None


class ListenerTls(ApiObject):
    """How a listener handles TLS."""

    accepted = names("frontendValidation")
    mode: Literal["Terminate", "Passthrough"] | None = None
    certificateRefs: list[ObjectReference] | None = None
    options: dict[str, str] | None = None


class RouteNamespaces(ApiObject):
    """The namespaces whose routes may attach."""

    from_: Literal["All", "Selector", "Same", "None"] | None = Field(default=None, alias="from")
    selector: LabelSelector | None = None


class RouteKind(ApiObject):
    """A kind of route."""

    group: Group | None = None
    kind: KindName


class AllowedRoutes(ApiObject):
    """Which routes may attach."""

    namespaces: RouteNamespaces | None = None
    kinds: list[RouteKind] | None = None


class Listener(ApiObject):
    """One port, and what is accepted there."""

    name: DnsSubdomain
    hostname: HostnameOrEmpty | None = None
    port: PortNumber
    protocol: ListenerProtocol
    tls: ListenerTls | None = None
    allowedRoutes: AllowedRoutes | None = None

    def rules(self) -> Iterator[Fault]:
        if self.protocol in ("HTTP", "TCP", "UDP") and self.tls is not None:
            yield Fault(("tls",), f"must not be given for protocol {self.protocol}", at_key=True)
        if self.protocol == "HTTPS" and self.tls is not None and self.tls.mode == "Passthrough":
            yield Fault(("tls", "mode"), "must be Terminate for protocol HTTPS")
        if self.protocol in ("TCP", "UDP") and self.hostname:
            yield Fault(("hostname",), f"must not be given for protocol {self.protocol}")


class GatewayAddress(ApiObject):
    """An address that is asked for."""

    type: str | None = None
    value: str | None = None


class Infrastructure(ApiObject):
    """What is put on whatever a controller makes for the Gateway."""

    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    parametersRef: ObjectReference | None = None


class GatewaySpec(ApiObject):
    """Where to listen, served by which class."""

    accepted = names("allowedListeners defaultScope tls")
    gatewayClassName: DnsSubdomain
    listeners: list[Listener]
    addresses: list[GatewayAddress] | None = None
    infrastructure: Infrastructure | None = None

    def rules(self) -> Iterator[Fault]:
        if not 1 <= len(self.listeners) <= 64:
            yield Fault(("listeners",), f"must be 1 to 64, not {len(self.listeners)}")
        for index in duplicates([item.name for item in self.listeners]):
            yield Fault(("listeners", index, "name"), "appears twice")
        places: list[Any] = [(item.port, item.protocol, item.hostname or "") for item in self.listeners]
        for index in duplicates(places):
            yield Fault(("listeners", index), "has port, protocol and hostname of another listener")


class Gateway(ApiObject):
    """gateway.networking.k8s.io/v1 Gateway."""

    accepted = names("status")
    apiVersion: str
    kind: str
    metadata: GatewayMeta
    spec: GatewaySpec
