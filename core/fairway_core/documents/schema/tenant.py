"""Tenant (fairway.dev/v1): namespaces that belong together, and what others may see of them."""

from __future__ import annotations

from collections.abc import Iterator

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject, ClusterMeta, duplicates
from fairway_core.documents.schema.selector import LabelSelector
from fairway_core.documents.schema.text import DnsLabel, DnsLabel1035, DnsSubdomain


class TenantMeta(ClusterMeta):
    """A tenant's name is a DNS name."""

    name: DnsSubdomain


class Export(ApiObject):
    """Services that meet every condition given."""

    services: list[DnsLabel1035] | None = None
    selector: LabelSelector | None = None
    namespaces: list[DnsLabel] | None = None

    def rules(self) -> Iterator[Fault]:
        if self.services is None and self.selector is None:
            # What is open to everybody must have been said, not left out.
            yield Fault((), "an export needs services or selector (an empty selector, {}, is all services)")
        for field, given in (("services", self.services), ("namespaces", self.namespaces)):
            if given == []:
                yield Fault((field,), "must name something, or be left out")
            for index in duplicates(list(given or ())):
                yield Fault((field, index), "appears twice")


class TenantDns(ApiObject):
    """Names of this tenant that other tenants may see."""

    exports: list[Export] | None = None


class TenantSpec(ApiObject):
    """Whose namespaces, by name, by labels, or both."""

    namespaces: list[DnsLabel] | None = None
    namespaceSelector: LabelSelector | None = None
    dns: TenantDns | None = None

    def rules(self) -> Iterator[Fault]:
        if not self.namespaces and self.namespaceSelector is None:
            yield Fault((), "a tenant needs namespaces or namespaceSelector")
        for index in duplicates(list(self.namespaces or ())):
            yield Fault(("namespaces", index), "appears twice")


class Tenant(ApiObject):
    """fairway.dev/v1 Tenant."""

    apiVersion: str
    kind: str
    metadata: TenantMeta
    spec: TenantSpec
