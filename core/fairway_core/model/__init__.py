"""The objects Fairway works on, as frozen values."""

from fairway_core.model.attachment import Attachment, Bandwidth, HostPort
from fairway_core.model.gateway import Gateway, HTTPRoute, Listener, RouteParent
from fairway_core.model.meta import Meta, family_of
from fairway_core.model.pod import Namespace, Node, Pod, PodPort
from fairway_core.model.policy import ClusterNetworkPolicy, IpBlock, NetworkPolicy, Peer, PodPeer, PolicyPort, Rule
from fairway_core.model.service import Endpoint, EndpointSlice, Service, ServiceCIDR, ServicePort, SlicePort
from fairway_core.model.servicepolicy import EndpointWeight, HealthCheck, OutlierDetection, ServicePolicy, SlowStart
from fairway_core.model.tenant import Export, Tenant

Workload = Namespace | Node | Pod | Service | ServiceCIDR | EndpointSlice | Attachment
Policy = NetworkPolicy | ClusterNetworkPolicy | ServicePolicy | Tenant
Object = Workload | Policy | Gateway | HTTPRoute

__all__ = [
    "Attachment", "Bandwidth", "ClusterNetworkPolicy", "Endpoint", "EndpointSlice", "EndpointWeight", "Export", "Gateway",
    "HTTPRoute", "HealthCheck", "HostPort", "IpBlock", "Listener", "Meta", "Namespace", "NetworkPolicy", "Node", "Object",
    "OutlierDetection", "Peer", "Pod", "PodPeer", "PodPort", "PolicyPort", "RouteParent", "Rule", "Service", "ServiceCIDR",
    "ServicePolicy", "ServicePort", "SlicePort", "SlowStart", "Tenant", "family_of",
]  # fmt: skip
