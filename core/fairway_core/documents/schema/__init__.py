"""The schema of every kind a user may declare, in Kubernetes' shape."""

from collections.abc import Mapping

from fairway_core.documents.schema.base import ApiObject
from fairway_core.documents.schema.cluster import Namespace, Node
from fairway_core.documents.schema.endpoints import EndpointSlice
from fairway_core.documents.schema.pod import Pod
from fairway_core.documents.schema.policy import NetworkPolicy
from fairway_core.documents.schema.service import Service
from fairway_core.documents.schema.tenant import Tenant

SCHEMAS: Mapping[str, type[ApiObject]] = {
    model.__name__: model for model in (Namespace, Node, Pod, Service, EndpointSlice, NetworkPolicy, Tenant)
}

__all__ = ["SCHEMAS"]
