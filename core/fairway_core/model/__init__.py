"""The objects Fairway works on, as frozen values."""

from fairway_core.model.attachment import Attachment, Bandwidth, HostPort
from fairway_core.model.meta import Meta, family_of
from fairway_core.model.pod import Namespace, Node, Pod, PodPort
from fairway_core.model.policy import ClusterNetworkPolicy, IpBlock, NetworkPolicy, Peer, PodPeer, PolicyPort, Rule
from fairway_core.model.service import Endpoint, EndpointSlice, Service, ServicePort, SlicePort
from fairway_core.model.tenant import Export, Tenant

Object = Namespace | Node | Pod | Service | EndpointSlice | NetworkPolicy | ClusterNetworkPolicy | Tenant | Attachment

__all__ = [
    "Attachment", "Bandwidth", "ClusterNetworkPolicy", "Endpoint", "EndpointSlice", "Export", "HostPort", "IpBlock", "Meta",
    "Namespace", "NetworkPolicy", "Node", "Object", "Peer", "Pod", "PodPeer", "PodPort", "PolicyPort", "Rule", "Service",
    "ServicePort", "SlicePort", "Tenant", "family_of",
]  # fmt: skip
