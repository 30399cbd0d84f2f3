"""A namespace has one tenant: what would make it several is refused before it is stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairway_core.codec import decode
from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.world import Change, World


def refuse_disputes(world: World, applied: Mapping[Key, Mapping[str, Any]]) -> None:
    """Raises UserError if `applied` tenants or namespaces would make a namespace one of several tenants; names them all."""
    changes = [Change(key, decode(document)) for key, document in applied.items() if key.kind in ("Tenant", "Namespace")]
    if not changes:
        return
    known = world.disputed_namespaces()
    after, _touched = world.apply(changes, world.revision)
    for namespace, names in after.disputed_namespaces().items():
        if known.get(namespace) != names:
            tenants = " and ".join(f"Tenant/{name}" for name in names)
            raise UserError(f"namespace {namespace} would belong to {tenants}: a namespace has one tenant")
