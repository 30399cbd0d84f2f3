"""Namespace and Node (v1)."""

from __future__ import annotations

from collections.abc import Iterator

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ClusterMeta, names
from fairway_core.documents.schema.network import Cidr, CidrOrEmpty, family, parse_address
from fairway_core.documents.schema.text import DnsLabel, DnsSubdomain


class NamespaceMeta(ClusterMeta):
    """A namespace's name is part of DNS names."""

    name: DnsLabel


class NamespaceSpec(ApiObject):
    """Nothing in it concerns the network."""

    accepted = names("finalizers")


class NamespaceStatus(ApiObject):
    """Nothing in it concerns the network."""

    accepted = names("conditions phase")


class Namespace(ApiObject):
    """v1 Namespace."""

    apiVersion: str
    kind: str
    metadata: NamespaceMeta
    spec: NamespaceSpec | None = None
    status: NamespaceStatus | None = None


class NodeMeta(ClusterMeta):
    """A node's name is a host name."""

    name: DnsSubdomain


class NodeSpec(ApiObject):
    """The pod CIDRs: at most one per family."""

    accepted = names("configSource externalID providerID taints unschedulable")
    podCIDR: CidrOrEmpty | None = None
    podCIDRs: list[Cidr] | None = None

    def rules(self) -> Iterator[Fault]:
        cidrs = self.podCIDRs or []
        families = [family(cidr) for cidr in cidrs]
        for index, one in enumerate(families):
            if one in families[:index]:
                yield Fault(("podCIDRs", index), f"a second IPv{one} CIDR: at most one per address family")
        if self.podCIDR and cidrs and cidrs[0] != self.podCIDR:
            yield Fault(("podCIDR",), f"must be the first of podCIDRs, {cidrs[0]}")


class NodeAddress(ApiObject):
    """An address that is an IP by its type must be one."""

    type: str
    address: str

    def rules(self) -> Iterator[Fault]:
        if self.type in ("InternalIP", "ExternalIP"):
            try:
                parse_address(self.address)
            except ValueError as fault:
                yield Fault(("address",), str(fault))


class NodeStatus(ApiObject):
    """The node's addresses."""

    accepted = names(
        "allocatable capacity conditions config daemonEndpoints declaredFeatures features images nodeInfo phase "
        "runtimeHandlers volumesAttached volumesInUse"
    )
    addresses: list[NodeAddress] | None = None


class Node(ApiObject):
    """v1 Node."""

    apiVersion: str
    kind: str
    metadata: NodeMeta
    spec: NodeSpec | None = None
    status: NodeStatus | None = None
