"""Names of objects: kinds and keys."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.errors import UserError


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object: how it is written in a document and how a user names it on the command line."""

    name: str
    api_version: str
    plural: str
    short: str = ""
    namespaced: bool = True


KINDS: tuple[Kind, ...] = (
    Kind("Namespace", "v1", "namespaces", "ns", namespaced=False),
    Kind("Node", "v1", "nodes", "no", namespaced=False),
    Kind("Pod", "v1", "pods", "po"),
    Kind("Service", "v1", "services", "svc"),
    Kind("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", "eps"),
    Kind("NetworkPolicy", "networking.k8s.io/v1", "networkpolicies", "netpol"),
    Kind("ServiceCIDR", "networking.k8s.io/v1", "servicecidrs", namespaced=False),
    Kind("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", "cnp", namespaced=False),
    Kind("Gateway", "gateway.networking.k8s.io/v1", "gateways", "gtw"),
    Kind("HTTPRoute", "gateway.networking.k8s.io/v1", "httproutes"),
    Kind("ServicePolicy", "fairway.dev/v1", "servicepolicies", "svcpol"),
    Kind("Tenant", "fairway.dev/v1", "tenants", "ten", namespaced=False),
    Kind("Attachment", "fairway.dev/v1", "attachments", "att", namespaced=False),
)

BY_NAME = {kind.name: kind for kind in KINDS}
_BY_ALIAS = {alias.lower(): kind for kind in KINDS for alias in (kind.name, kind.plural, kind.short) if alias}


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """The identity of an object. `namespace` is empty for kinds without one."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        middle = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind}/{middle}{self.name}"


def kind_named(text: str) -> Kind:
    """The kind a user means by `text`: its name, plural or short form, in any case. Raises UserError."""
    kind = _BY_ALIAS.get(text.lower())
    if kind is None:
        known = ", ".join(sorted(kind.plural for kind in KINDS))
        raise UserError(f"unknown kind {text!r}; known kinds: {known}")
    return kind
