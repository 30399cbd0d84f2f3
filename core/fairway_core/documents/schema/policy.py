"""NetworkPolicy (networking.k8s.io/v1). Source of the rules: API reference; ValidateNetworkPolicy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ObjectMeta, duplicates
from fairway_core.documents.schema.network import Cidr, PortNumber, PortOrName, Protocol, parse_cidr
from fairway_core.documents.schema.selector import LabelSelector
from fairway_core.documents.schema.text import DnsSubdomain


class PolicyMeta(ObjectMeta):
    """A policy's name is a DNS name."""

    name: DnsSubdomain


class IpBlock(ApiObject):
    """A range of addresses less its exceptions, each of which lies inside it and is smaller."""

    cidr: Cidr
    except_: list[Cidr] | None = Field(default=None, alias="except")

    def rules(self) -> Iterator[Fault]:
        block = parse_cidr(self.cidr)
        for index, text in enumerate(self.except_ or ()):
            inner = parse_cidr(text)
            inside = inner.version == block.version and inner.subnet_of(block)  # type: ignore[arg-type]
            if not inside or inner == block:
                yield Fault(("except", index), f"{text} must lie inside {self.cidr} and be smaller")


class Peer(ApiObject):
    """The other side of a connection: pods, or addresses; never both."""

    podSelector: LabelSelector | None = None
    namespaceSelector: LabelSelector | None = None
    ipBlock: IpBlock | None = None

    def rules(self) -> Iterator[Fault]:
        pods = self.podSelector is not None or self.namespaceSelector is not None
        if self.ipBlock is not None and pods:
            yield Fault(("ipBlock",), "cannot stand beside podSelector or namespaceSelector in one peer", at_key=True)
        if self.ipBlock is None and not pods:
            # A null selector must not turn into "everybody" by accident; {} says that.
            yield Fault((), "a peer needs podSelector, namespaceSelector or ipBlock")


class PolicyPort(ApiObject):
    """One port, a range, or all ports of a protocol."""

    protocol: Protocol | None = None
    port: PortOrName | None = None
    endPort: PortNumber | None = None

    def rules(self) -> Iterator[Fault]:
        if self.endPort is None:
            return
        if self.port is None:
            yield Fault(("endPort",), "needs port")
        elif isinstance(self.port, str):
            yield Fault(("endPort",), "needs a numeric port, not a name")
        elif self.endPort < self.port:
            yield Fault(("endPort",), f"must not be below port {self.port}")


class IngressRule(ApiObject):
    """Who may come in, and to which ports; nothing said means any."""

    from_: list[Peer] | None = Field(default=None, alias="from")
    ports: list[PolicyPort] | None = None


class EgressRule(ApiObject):
    """Where to, and to which ports; nothing said means any."""

    to: list[Peer] | None = None
    ports: list[PolicyPort] | None = None


class PolicySpec(ApiObject):
    """Whom the policy isolates, in which directions, and what it allows."""

    podSelector: LabelSelector | None = None
    policyTypes: list[Literal["Ingress", "Egress"]] | None = None
    ingress: list[IngressRule] | None = None
    egress: list[EgressRule] | None = None

    def rules(self) -> Iterator[Fault]:
        for index in duplicates(list(self.policyTypes or ())):
            yield Fault(("policyTypes", index), "appears twice")


class NetworkPolicy(ApiObject):
    """networking.k8s.io/v1 NetworkPolicy."""

    apiVersion: str
    kind: str
    metadata: PolicyMeta
    spec: PolicySpec
