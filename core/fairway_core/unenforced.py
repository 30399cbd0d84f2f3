"""What an object asks for and this version does not do: kept in the object, said to everybody who looks at it. Pure.

Promise: `unenforced` never raises, whatever the document holds; it reports what `fairway_core.codec` reads past. Fields that mean
something to others only (a load balancer's class, an application protocol) are no gaps.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairway_core.codec import BLOCK_FIELDS, PEER_FIELDS, PORT_FIELDS
from fairway_core.readers import PROTOCOLS

Document = Mapping[str, Any]

LESS = "what it stands in allows nothing"


@dataclass(frozen=True, slots=True, order=True)
class Gap:
    """`field`: path in the document, as `spec.ports[0].protocol`; `reason`: what happens instead."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def unenforced(document: Document) -> tuple[Gap, ...]:
    """Everything in `document` that is not enforced, in the order of fields; empty for most objects."""
    rule = _RULES.get(str(document.get("kind")))
    return tuple(rule(document)) if rule else ()


_SERVICE = (
    *("type", "selector", "ports", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "externalIPs", "externalName"),
    *("externalTrafficPolicy", "internalTrafficPolicy", "sessionAffinity", "sessionAffinityConfig", "trafficDistribution"),
    *("publishNotReadyAddresses", "allocateLoadBalancerNodePorts", "healthCheckNodePort"),
    *("loadBalancerClass", "loadBalancerIP", "loadBalancerSourceRanges"),
)
_SERVICE_PORT = ("name", "port", "protocol", "targetPort", "nodePort", "appProtocol")
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "type": ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    "internalTrafficPolicy": ("Cluster", "Local"),
    "externalTrafficPolicy": ("Cluster", "Local", ""),
    "sessionAffinity": ("None", "ClientIP"),
    "trafficDistribution": ("no preference", "PreferClose", "PreferSameZone", "PreferSameNode"),
}
"""Values that are known, the first of which stands in for those that are not."""


def _service(document: Document) -> Iterator[Gap]:
    spec = _mapping(document.get("spec"))
    yield from _unknown(spec, _SERVICE, "spec")
    for field, known in _CHOICES.items():
        if spec.get(field) is not None and spec[field] not in known:
            yield Gap(f"spec.{field}", f"{spec[field]!r} is not known and taken for {known[0]}")
    yield from _unknown(_mapping(spec.get("sessionAffinityConfig")), ("clientIP",), "spec.sessionAffinityConfig")
    for path, port in _items(spec, "ports", "spec"):
        yield from _unknown(port, _SERVICE_PORT, path)
    status = _mapping(_mapping(document.get("status")).get("loadBalancer"))
    for path, ingress in _items(status, "ingress", "status.loadBalancer"):
        if ingress.get("ipMode") not in (None, "VIP", "Proxy"):
            yield Gap(f"{path}.ipMode", f"{ingress['ipMode']!r} is not known and taken for VIP")


def _slice(document: Document) -> Iterator[Gap]:
    if document.get("addressType") == "FQDN":
        yield Gap("addressType", "names are no addresses to balance to")


def _policy(document: Document) -> Iterator[Gap]:
    spec = _mapping(document.get("spec"))
    yield from _unknown(spec, ("podSelector", "policyTypes", "ingress", "egress"), "spec")
    for index, name in enumerate(_list(spec, "policyTypes")):
        if name not in ("Ingress", "Egress"):
            yield Gap(f"spec.policyTypes[{index}]", f"{name!r} is not known; the other directions are isolated")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for path, rule in _items(spec, direction, "spec"):
            yield from _unknown(rule, (side, "ports"), path, LESS)
            for where, peer in _items(rule, side, path):
                yield from _unknown(peer, PEER_FIELDS, where, LESS)
                yield from _unknown(_mapping(peer.get("ipBlock")), BLOCK_FIELDS, f"{where}.ipBlock", LESS)
            for where, port in _items(rule, "ports", path):
                yield from _policy_port(where, port)


def _policy_port(path: str, port: Document) -> Iterator[Gap]:
    yield from _unknown(port, PORT_FIELDS, path, LESS)
    protocol = port.get("protocol")
    if isinstance(protocol, str) and protocol and protocol not in PROTOCOLS:
        yield Gap(f"{path}.protocol", f"{protocol!r} is not known; nothing is allowed by it")
    if port.get("endPort") is not None and isinstance(port.get("port"), str):
        yield Gap(f"{path}.endPort", "a range cannot start at a name; only the named port is allowed")


def _cluster_policy(document: Document) -> Iterator[Gap]:
    yield Gap("spec", "ClusterNetworkPolicy is not compiled: none of its rules is in force")


def _gateway(document: Document) -> Iterator[Gap]:
    name = _mapping(document.get("spec")).get("gatewayClassName")
    yield Gap("spec", f"Fairway serves no Gateways: nothing listens, unless class {name!r} is another controller's")


def _route(document: Document) -> Iterator[Gap]:
    parents = list(_items(_mapping(document.get("spec")), "parentRefs", "spec"))
    for path, parent in parents:
        if parent.get("kind") == "Service":
            yield Gap(path, f"connections to Service {parent.get('name')!r} are balanced without a look at requests")
        else:
            yield Gap(
                path, f"Fairway serves no Gateways: nothing is routed, unless {parent.get('name')!r} is another controller's"
            )
    if not parents:
        yield Gap("spec", "Fairway serves no HTTPRoutes: none of its rules is in force")


_SERVICE_POLICY = {
    "weights": "endpoints have equal shares",
    "healthCheck": "nobody checks; endpoints are as ready as their EndpointSlices say",
    "outlierDetection": "endpoints that fail are not left out",
    "slowStart": "a new endpoint has its whole share at once",
    "drain": "connections to endpoints that go are left alone, however long they last",
}
"""What is asked for, and what happens instead."""


def _service_policy(document: Document) -> Iterator[Gap]:
    spec = _mapping(document.get("spec"))
    for field, instead in _SERVICE_POLICY.items():
        if spec.get(field) is not None:
            yield Gap(f"spec.{field}", f"is not carried out yet: {instead}")
    yield from _unknown(spec, ("targetRef", *_SERVICE_POLICY), "spec")


def _unknown(
    document: Document, known: Collection[str], path: str, instead: str = "it is as if it were not there"
) -> Iterator[Gap]:
    """Fields that only a newer API has."""
    for name in sorted(map(str, document.keys() - set(known))):
        yield Gap(f"{path}.{name}", f"this version does not know the field; {instead}")


def _mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}


def _list(document: Document, name: str) -> list[Any]:
    values = document.get(name)
    return values if isinstance(values, list) else []


def _items(document: Document, name: str, path: str) -> Iterator[tuple[str, Document]]:
    for index, value in enumerate(_list(document, name)):
        yield f"{path}.{name}[{index}]", _mapping(value)


_RULES: Mapping[str, Callable[[Document], Iterator[Gap]]] = {
    "Service": _service,
    "EndpointSlice": _slice,
    "NetworkPolicy": _policy,
    "ClusterNetworkPolicy": _cluster_policy,
    "Gateway": _gateway,
    "HTTPRoute": _route,
    "ServicePolicy": _service_policy,
}
