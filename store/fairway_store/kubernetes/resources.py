"""Which collections of the API are read, and where they are. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.keys import KINDS, Kind

BUILT_IN = frozenset({"v1", "discovery.k8s.io/v1", "networking.k8s.io/v1"})
"""Groups that every supported server has. Their absence is a fault; that of another group is no news."""
LATE = frozenset({"ServiceCIDR"})
"""Kinds of such a group that older servers lack (1.33)."""
LOCAL = frozenset({"Attachment"})
"""Kinds that belong to the node alone and never reach the API server."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One collection: its path, and whether the node can do without it."""

    kind: str
    api_version: str
    plural: str
    namespaced: bool = True
    required: bool = True

    @property
    def path(self) -> str:
        """The collection in all namespaces."""
        root = "api" if "/" not in self.api_version else "apis"
        return f"/{root}/{self.api_version}/{self.plural}"

    def permission(self, verb: str) -> str:
        """An RBAC permission in words."""
        group = self.api_version.rpartition("/")[0]
        return f'{verb} {self.plural} in API group "{group}" at the cluster scope'


EVENTS = Resource("Event", "events.k8s.io/v1", "events")
NODE_STATUS = Resource("Node", "v1", "nodes/status", namespaced=False)
"""What is written, and never read."""


def resource_of(kind: Kind) -> Resource:
    """The collection that holds the objects of `kind`."""
    required = kind.api_version in BUILT_IN and kind.name not in LATE
    return Resource(kind.name, kind.api_version, kind.plural, kind.namespaced, required)


def cluster_resources() -> tuple[Resource, ...]:
    """Every kind the node works with and the cluster holds."""
    return tuple(resource_of(kind) for kind in KINDS if kind.name not in LOCAL)
