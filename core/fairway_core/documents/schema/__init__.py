"""The schema of every kind a user may declare, in Kubernetes' shape."""

from collections.abc import Mapping

from fairway_core.documents.schema.base import ApiObject
from fairway_core.documents.schema.cluster import Namespace, Node
from fairway_core.documents.schema.endpoints import EndpointSlice
from fairway_core.documents.schema.gateway import Gateway
from fairway_core.documents.schema.httproute import HTTPRoute
from fairway_core.documents.schema.pod import Pod
from fairway_core.documents.schema.policy import NetworkPolicy
from fairway_core.documents.schema.service import Service
from fairway_core.documents.schema.servicepolicy import ServicePolicy
from fairway_core.documents.schema.tenant import Tenant

_WORKLOADS = (Namespace, Node, Pod, Service, EndpointSlice)
_STEERING = (NetworkPolicy, Tenant, ServicePolicy, Gateway, HTTPRoute)

SCHEMAS: Mapping[str, type[ApiObject]] = {model.__name__: model for model in (*_WORKLOADS, *_STEERING)}

__all__ = ["SCHEMAS"]
