"""Whose each namespace is, kept up to date. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from fairway_core.keys import Key
from fairway_core.world import World


class TenantBook:
    """The tenant of every namespace that anything was ever heard of."""

    def __init__(self) -> None:
        self._owners: dict[str, tuple[str, ...]] = {}

    def of(self, namespace: str) -> str:
        """The tenant's name, empty for none; of several that claim the namespace the first."""
        return next(iter(self._owners.get(namespace, ())), "")

    def update(self, world: World, touched: Iterable[Key], seen: Iterable[str]) -> set[str]:
        """Take over a change; `seen` are namespaces of objects it touches. Returns the namespaces where who may see what has
        changed: another tenant, or one that says something else than before. Takes time in all namespaces if a tenant is touched.
        """
        tenants = {key.name for key in touched if key.kind == "Tenant"}
        again = set(self._owners) if tenants else {key.name for key in touched if key.kind == "Namespace"}
        changed: set[str] = set()
        for namespace in sorted(again | {name for name in seen if name not in self._owners}):
            before, now = self.of(namespace), tuple(tenant.meta.name for tenant in world.tenants_of(namespace))
            self._owners[namespace] = now
            if self.of(namespace) != before or before in tenants:
                changed.add(namespace)
        return changed
