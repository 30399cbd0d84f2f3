"""Documents (JSON-shaped, as stored) to objects.

Promise: tolerant of fields it does not know and of missing optional ones, so that an object written by a newer API server
still decodes; strictness is the business of `fairway_core.documents`, which checks what users write. Raises UserError if
what is there cannot be understood; never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from fairway_core.errors import UserError
from fairway_core.keys import BY_NAME, Key
from fairway_core.model import (
    Attachment,
    Endpoint,
    EndpointSlice,
    IpBlock,
    Meta,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Peer,
    Pod,
    PodPeer,
    PodPort,
    PolicyPort,
    Rule,
    Service,
    ServicePort,
    SlicePort,
)
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.model.service import NO_CLUSTER_IP, SERVICE_NAME_LABEL
from fairway_core.selectors import Selector, selector_from_document, selector_from_labels

Document = Mapping[str, Any]


def key_of(document: Document) -> Key:
    """The key a document has by its kind and metadata. Raises UserError."""
    kind = BY_NAME.get(str(document.get("kind")))
    meta = document.get("metadata")
    if kind is None or not isinstance(meta, Mapping) or not meta.get("name"):
        raise UserError(f"not an object of a known kind with a name: kind {document.get('kind')!r}")
    return Key(kind.name, str(meta.get("namespace") or "default") if kind.namespaced else "", str(meta["name"]))


def decode(document: Document) -> Object:
    """The object a document describes. Raises UserError naming the key and the fault."""
    key = key_of(document)
    try:
        return _DECODERS[key.kind](_meta(key, document), document)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise UserError(f"{key}: cannot be understood: {type(fault).__name__}: {fault}") from fault


def _meta(key: Key, document: Document) -> Meta:
    meta = document["metadata"]
    return Meta(
        key.name,
        key.namespace,
        dict(meta.get("labels") or {}),
        dict(meta.get("annotations") or {}),
        str(meta.get("uid") or ""),
    )


def _spec(document: Document) -> Document:
    return document.get("spec") or {}


def _address(text: str) -> str:
    return str(ip_address(text))


def _cidr(text: str) -> str:
    return str(ip_network(text, strict=False))


def _namespace(meta: Meta, document: Document) -> Namespace:
    # Kubernetes gives every namespace this label; selectors rely on it.
    labels = {**meta.labels, "kubernetes.io/metadata.name": meta.name}
    return Namespace(Meta(meta.name, "", labels, meta.annotations, meta.uid))


def _node(meta: Meta, document: Document) -> Node:
    status = document.get("status") or {}
    spec = _spec(document)
    addresses = tuple(
        _address(item["address"]) for item in status.get("addresses") or () if item.get("type") in ("InternalIP", "ExternalIP")
    )
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    return Node(meta, addresses, tuple(map(_cidr, cidrs)))


def _pod(meta: Meta, document: Document) -> Pod:
    spec, status = _spec(document), document.get("status") or {}
    ips = [item["ip"] for item in status.get("podIPs") or ()] or [status.get("podIP")]
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    ports = {
        PodPort(port["name"], int(port["containerPort"]), port.get("protocol") or "TCP")
        for container in spec.get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return Pod(
        meta=meta,
        ips=tuple(_address(ip) for ip in ips if ip),
        ports=tuple(sorted(ports)),
        node_name=spec.get("nodeName") or "",
        host_network=bool(spec.get("hostNetwork")),
        phase=status.get("phase") or "Pending",
        ready=ready,
        terminating=bool(document["metadata"].get("deletionTimestamp")),
        hostname=spec.get("hostname") or "",
        subdomain=spec.get("subdomain") or "",
    )


def _service(meta: Meta, document: Document) -> Service:
    spec = _spec(document)
    ips = tuple(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else ()))
    headless = ips[:1] == (NO_CLUSTER_IP,)
    affinity = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    ingress = ((document.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return Service(
        meta=meta,
        type=spec.get("type") or "ClusterIP",
        cluster_ips=() if headless else tuple(map(_address, ips)),
        headless=headless,
        selector=selector_from_labels(spec["selector"]) if spec.get("selector") else None,
        ports=tuple(_service_port(port) for port in spec.get("ports") or ()),
        external_ips=tuple(map(_address, spec.get("externalIPs") or ())),
        load_balancer_ips=tuple(_address(item["ip"]) for item in ingress if item.get("ip")),
        external_name=spec.get("externalName") or "",
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        affinity_seconds=int(affinity.get("timeoutSeconds") or 10800) if spec.get("sessionAffinity") == "ClientIP" else 0,
        internal_policy_local=spec.get("internalTrafficPolicy") == "Local",
        external_policy_local=spec.get("externalTrafficPolicy") == "Local",
    )


def _service_port(port: Document) -> ServicePort:
    number = int(port["port"])
    return ServicePort(
        number,
        port.get("protocol") or "TCP",
        port.get("name") or "",
        port.get("targetPort") or number,
        int(port.get("nodePort") or 0),
    )


def _slice(meta: Meta, document: Document) -> EndpointSlice:
    family = 6 if document.get("addressType") == "IPv6" else 4
    ports = tuple(
        SlicePort(port.get("name") or "", int(port.get("port") or 0), port.get("protocol") or "TCP")
        for port in document.get("ports") or ()
    )
    # FQDN slices are deprecated and carry no addresses that can be balanced to.
    usable = document.get("addressType") != "FQDN"
    endpoints = tuple(_endpoint(item) for item in document.get("endpoints") or ()) if usable else ()
    return EndpointSlice(meta, meta.labels.get(SERVICE_NAME_LABEL, ""), family, endpoints, ports)


def _endpoint(item: Document) -> Endpoint:
    conditions = item.get("conditions") or {}
    target = item.get("targetRef") or {}
    ready = conditions.get("ready")
    ready = True if ready is None else bool(ready)
    serving = conditions.get("serving")
    return Endpoint(
        addresses=tuple(map(_address, item["addresses"])),
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        hostname=item.get("hostname") or "",
        node_name=item.get("nodeName") or "",
        pod=target.get("name", "") if target.get("kind") == "Pod" else "",
        zone=item.get("zone") or "",
    )


def _policy(meta: Meta, document: Document) -> NetworkPolicy:
    spec = _spec(document)
    types = spec.get("policyTypes") or ([INGRESS, EGRESS] if spec.get("egress") else [INGRESS])
    return NetworkPolicy(
        meta=meta,
        pods=selector_from_document(spec.get("podSelector") or {}),
        types=frozenset(types),
        ingress=tuple(_rule(rule, "from") for rule in spec.get("ingress") or ()),
        egress=tuple(_rule(rule, "to") for rule in spec.get("egress") or ()),
    )


def _rule(rule: Document, direction: str) -> Rule:
    return Rule(
        tuple(_peer(peer) for peer in rule.get(direction) or ()),
        tuple(_policy_port(port) for port in rule.get("ports") or ()),
    )


def _peer(peer: Document) -> Peer:
    block = peer.get("ipBlock")
    if block is not None:
        return IpBlock(_cidr(block["cidr"]), tuple(sorted(map(_cidr, block.get("except") or ()))))
    return PodPeer(_optional_selector(peer.get("namespaceSelector")), _optional_selector(peer.get("podSelector")))


def _optional_selector(document: Document | None) -> Selector | None:
    return None if document is None else selector_from_document(document)


def _policy_port(port: Document) -> PolicyPort:
    end = port.get("endPort")
    return PolicyPort(port.get("protocol") or "TCP", port.get("port"), None if end is None else int(end))


def _attachment(meta: Meta, document: Document) -> Attachment:
    spec = _spec(document)
    return Attachment(
        meta=meta,
        network=spec["network"],
        container_id=spec["containerID"],
        ifname=spec["ifname"],
        netns=spec.get("netns") or "",
        pod_namespace=spec["podNamespace"],
        pod_name=spec["podName"],
        host_ifname=spec["hostIfname"],
        mac=spec["mac"],
        ips=tuple(spec["ips"]),
        mode=spec["mode"],
        mtu=int(spec["mtu"]),
        boot_id=spec.get("bootID") or "",
        netns_id=spec.get("netnsID") or "",
        confirmed=bool(spec.get("confirmed")),
        pod_declared=bool(spec.get("podDeclared")),
        aliases=tuple(spec.get("aliases") or ()),
    )


_DECODERS: dict[str, Callable[[Meta, Document], Object]] = {
    "Namespace": _namespace,
    "Node": _node,
    "Pod": _pod,
    "Service": _service,
    "EndpointSlice": _slice,
    "NetworkPolicy": _policy,
    "Attachment": _attachment,
}


def encode_slice(item: EndpointSlice) -> dict[str, Any]:
    """The document of an EndpointSlice: the inverse of decoding, for slices that were derived and never stored."""
    endpoints = [
        {
            "addresses": list(endpoint.addresses),
            "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
            **({"hostname": endpoint.hostname} if endpoint.hostname else {}),
            **({"nodeName": endpoint.node_name} if endpoint.node_name else {}),
            **({"zone": endpoint.zone} if endpoint.zone else {}),
            **({"targetRef": {"kind": "Pod", "name": endpoint.pod}} if endpoint.pod else {}),
        }
        for endpoint in item.endpoints
    ]
    return {
        "apiVersion": BY_NAME["EndpointSlice"].api_version,
        "kind": "EndpointSlice",
        "metadata": {"name": item.meta.name, "namespace": item.meta.namespace, "labels": dict(item.meta.labels)},
        "addressType": f"IPv{item.family}",
        "endpoints": endpoints,
        "ports": [{"name": port.name, "port": port.port, "protocol": port.protocol} for port in item.ports],
    }
