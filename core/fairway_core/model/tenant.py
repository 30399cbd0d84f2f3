"""Tenant (fairway.dev/v1): whose a namespace is."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fairway_core.model.meta import Meta
from fairway_core.selectors import Labels, Selector


@dataclass(frozen=True, slots=True)
class Export:
    """Services whose names other tenants may see: those that meet every condition. None is no condition."""

    services: tuple[str, ...] | None = None
    selector: Selector | None = None
    namespaces: tuple[str, ...] | None = None

    def covers(self, namespace: str, service: str, labels: Labels) -> bool:
        """Whether a service of one of the tenant's namespaces is meant."""
        return (
            _listed(namespace, self.namespaces)
            and _listed(service, self.services)
            and (self.selector is None or self.selector.matches(labels))
        )


def _listed(name: str, names: Collection[str] | None) -> bool:
    return names is None or name in names


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of namespaces: those named, and those the selector matches. No selector selects nothing."""

    meta: Meta
    namespaces: tuple[str, ...] = ()
    selector: Selector | None = None
    exports: tuple[Export, ...] = ()

    def claims(self, namespace: str, labels: Labels) -> bool:
        """Whether a namespace with these labels is this tenant's, as far as this tenant is concerned."""
        return namespace in self.namespaces or (self.selector is not None and self.selector.matches(labels))

    def exports_service(self, namespace: str, service: str, labels: Labels) -> bool:
        """Whether a service of one of its namespaces may be seen by everybody."""
        return any(export.covers(namespace, service, labels) for export in self.exports)
