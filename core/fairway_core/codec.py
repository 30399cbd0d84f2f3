"""Documents (JSON-shaped, as stored) to objects.

Promise: tolerant of fields it does not know and of missing optional ones, so that an object written by a newer API server
still decodes; strictness is the business of `fairway_core.documents`, which checks what users write. Raises UserError if
what is there cannot be understood; never anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from fairway_core import codec_traffic as traffic
from fairway_core import readers as read
from fairway_core.errors import UserError
from fairway_core.keys import BY_NAME, Key
from fairway_core.model import (
    Attachment,
    Bandwidth,
    Endpoint,
    EndpointSlice,
    Export,
    HostPort,
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
    Tenant,
)
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.model.service import NO_CLUSTER_IP, SERVICE_NAME_LABEL
from fairway_core.selectors import Selector, selector_from_document, selector_from_labels

Document = Mapping[str, Any]
T = TypeVar("T")

PEER_FIELDS = frozenset({"podSelector", "namespaceSelector", "ipBlock"})
BLOCK_FIELDS = frozenset({"cidr", "except"})
PORT_FIELDS = frozenset({"protocol", "port", "endPort"})
AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
"""A node that carries it is about to go (KEP-3836)."""


def key_of(document: Document) -> Key:
    """The key a document has by its kind and metadata. Raises UserError."""
    kind = BY_NAME.get(str(document.get("kind")))
    meta = document.get("metadata")
    name = meta.get("name") if isinstance(meta, Mapping) else None
    if kind is None or not isinstance(meta, Mapping) or not isinstance(name, str) or not name:
        raise UserError(f"not an object of a known kind with a name: kind {document.get('kind')!r}")
    namespace = meta.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise UserError(f"{kind.name}/{name}: metadata.namespace is not text")
    return Key(kind.name, read.word(namespace) if kind.namespaced else "", name)


def decode(document: Document) -> Object:
    """The object a document describes. Raises UserError naming the key and the fault."""
    key = key_of(document)
    try:
        return _DECODERS[key.kind](_meta(key, document), document)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as fault:
        raise UserError(f"{key}: cannot be understood: {type(fault).__name__}: {fault}") from fault


def _meta(key: Key, document: Document) -> Meta:
    meta = document["metadata"]
    return Meta(
        key.name,
        key.namespace,
        read.labels(meta.get("labels")),
        read.labels(meta.get("annotations")),
        read.text(meta.get("uid")),
    )


def _spec(document: Document) -> Document:
    return document.get("spec") or {}


def _namespace(meta: Meta, document: Document) -> Namespace:
    # Kubernetes gives every namespace this label; selectors rely on it.
    labels = {**meta.labels, "kubernetes.io/metadata.name": meta.name}
    return Namespace(Meta(meta.name, "", labels, meta.annotations, meta.uid))


def _node(meta: Meta, document: Document) -> Node:
    status = document.get("status") or {}
    spec = _spec(document)
    addresses = [
        (item["type"], read.address(item["address"]))
        for item in status.get("addresses") or ()
        if item.get("type") in ("InternalIP", "ExternalIP")
    ]
    cidrs = spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])
    going = any(taint.get("key") == AUTOSCALER_TAINT for taint in spec.get("taints") or ())
    return Node(
        meta=meta,
        addresses=tuple(address for _, address in addresses),
        pod_cidrs=tuple(map(read.cidr, cidrs)),
        internal=tuple(address for kind, address in addresses if kind == "InternalIP"),
        leaving=going or bool(document["metadata"].get("deletionTimestamp")),
        created=read.text(document["metadata"].get("creationTimestamp")),
    )


def _pod(meta: Meta, document: Document) -> Pod:
    spec, status = _spec(document), document.get("status") or {}
    ips = [item["ip"] for item in status.get("podIPs") or ()] or [status.get("podIP")]
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    ports = {
        PodPort(read.word(port["name"]), read.port(port["containerPort"]), read.protocol(port.get("protocol")))
        for container in _lasting(spec)
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return Pod(
        meta=meta,
        ips=tuple(read.address(ip) for ip in ips if ip),
        ports=tuple(sorted(ports)),
        node_name=read.word(spec.get("nodeName")),
        host_network=bool(spec.get("hostNetwork")),
        phase=read.word(status.get("phase")) or "Pending",
        ready=ready,
        terminating=bool(document["metadata"].get("deletionTimestamp")),
        hostname=read.text(spec.get("hostname")),
        subdomain=read.text(spec.get("subdomain")),
    )


def _lasting(spec: Document) -> Iterator[Document]:
    """The containers that run while the pod does: the usual ones, and sidecars (KEP-753)."""
    yield from spec.get("containers") or ()
    yield from (item for item in spec.get("initContainers") or () if item.get("restartPolicy") == "Always")


def _service(meta: Meta, document: Document) -> Service:
    spec = _spec(document)
    ips = read.texts(spec.get("clusterIPs") or ([spec["clusterIP"]] if spec.get("clusterIP") else ()))
    headless = ips[:1] == (NO_CLUSTER_IP,)
    affinity = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    sticky = spec.get("sessionAffinity") == "ClientIP"
    ingress = ((document.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return Service(
        meta=meta,
        type=read.word(spec.get("type")) or "ClusterIP",
        cluster_ips=() if headless else read.addresses(ips),
        headless=headless,
        selector=selector_from_labels(read.labels(spec["selector"])) if spec.get("selector") else None,
        ports=tuple(_service_port(port) for port in spec.get("ports") or ()),
        external_ips=read.addresses(spec.get("externalIPs")),
        # An address with ipMode Proxy belongs to a load balancer that must not be bypassed (KEP-1860).
        load_balancer_ips=tuple(read.address(item["ip"]) for item in ingress if item.get("ip") and item.get("ipMode") != "Proxy"),
        external_name=read.text(spec.get("externalName")),
        publish_not_ready=bool(spec.get("publishNotReadyAddresses")),
        affinity_seconds=read.whole(affinity.get("timeoutSeconds") or 10800, 1, 86400) if sticky else 0,
        internal_policy_local=spec.get("internalTrafficPolicy") == "Local",
        external_policy_local=spec.get("externalTrafficPolicy") == "Local",
        traffic_distribution=read.text(spec.get("trafficDistribution")),
        source_ranges=tuple(read.cidr(text.strip()) for text in read.texts(spec.get("loadBalancerSourceRanges"))),
        health_check_port=read.port(spec["healthCheckNodePort"]) if spec.get("healthCheckNodePort") else 0,
    )


def _service_port(port: Document) -> ServicePort:
    number = read.port(port["port"])
    return ServicePort(
        number,
        read.protocol(port.get("protocol")),
        read.word(port.get("name")),
        read.port_or_name(port.get("targetPort") or number),
        read.port(port["nodePort"]) if port.get("nodePort") else 0,
    )


def _slice(meta: Meta, document: Document) -> EndpointSlice:
    address_type = document.get("addressType") or "IPv4"
    service = meta.labels.get(SERVICE_NAME_LABEL, "")
    if address_type == "FQDN":
        # Deprecated; carries no addresses that can be balanced to.
        return EndpointSlice(meta, service, 4)
    family = {"IPv4": 4, "IPv6": 6}[address_type]
    ports = tuple(
        SlicePort(
            read.word(port.get("name")), read.port(port["port"]) if port.get("port") else 0, read.protocol(port.get("protocol"))
        )
        for port in document.get("ports") or ()
    )
    endpoints = tuple(_endpoint(item, family) for item in document.get("endpoints") or ())
    return EndpointSlice(meta, service, family, endpoints, ports)


def _endpoint(item: Document, family: int) -> Endpoint:
    addresses = tuple(read.address(address, family) for address in read.texts(item["addresses"]))
    if not addresses:
        raise ValueError("an endpoint without an address")
    conditions = item.get("conditions") or {}
    target = item.get("targetRef") or {}
    ready = conditions.get("ready")
    ready = True if ready is None else bool(ready)
    serving = conditions.get("serving")
    return Endpoint(
        addresses=addresses,
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        hostname=read.text(item.get("hostname")),
        node_name=read.word(item.get("nodeName")),
        pod=read.text(target.get("name")) if target.get("kind") == "Pod" else "",
        zone=read.word(item.get("zone")),
        for_zones=_hints(item, "forZones"),
        for_nodes=_hints(item, "forNodes"),
    )


def _hints(item: Document, kind: str) -> tuple[str, ...]:
    hints = item.get("hints") or {}
    return tuple(read.text(hint["name"]) for hint in hints.get(kind) or ())


def _policy(meta: Meta, document: Document) -> NetworkPolicy:
    """What a newer API may have put into a policy can only allow less here: a rule, peer or port not understood is none."""
    spec = _spec(document)
    types = frozenset(read.texts(spec.get("policyTypes")) or ([INGRESS, EGRESS] if spec.get("egress") else [INGRESS]))
    if not types & {INGRESS, EGRESS}:
        raise ValueError(f"policyTypes {sorted(types)}")
    return NetworkPolicy(
        meta=meta,
        pods=selector_from_document(spec.get("podSelector") or {}),
        types=types & {INGRESS, EGRESS},
        ingress=_understood(_rule(rule, "from") for rule in spec.get("ingress") or ()),
        egress=_understood(_rule(rule, "to") for rule in spec.get("egress") or ()),
    )


def _understood(values: Iterable[T | None]) -> tuple[T, ...]:
    return tuple(value for value in values if value is not None)


def _rule(rule: Document, direction: str) -> Rule | None:
    peers: tuple[Peer, ...] = _understood(_peer(peer) for peer in rule.get(direction) or ())
    ports = _understood(_policy_port(port) for port in rule.get("ports") or ())
    # None left of those there were would mean "any".
    lost = (rule.get(direction) and not peers) or (rule.get("ports") and not ports)
    return None if lost or not rule.keys() <= {direction, "ports"} else Rule(peers, ports)


def _peer(peer: Document) -> Peer | None:
    block = peer.get("ipBlock")
    if not peer.keys() <= PEER_FIELDS or not (block or {}).keys() <= BLOCK_FIELDS:
        return None
    if block is not None:
        return IpBlock(read.cidr(block["cidr"]), tuple(sorted(map(read.cidr, read.texts(block.get("except"))))))
    found = PodPeer(_optional_selector(peer.get("namespaceSelector")), _optional_selector(peer.get("podSelector")))
    return None if found == PodPeer(None, None) else found


def _tenant(meta: Meta, document: Document) -> Tenant:
    spec = _spec(document)
    exports = (spec.get("dns") or {}).get("exports") or ()
    return Tenant(
        meta,
        read.texts(spec.get("namespaces")),
        _optional_selector(spec.get("namespaceSelector")),
        tuple(map(_export, exports)),
    )


def _export(item: Document) -> Export:
    services, selector = _optional_texts(item.get("services")), _optional_selector(item.get("selector"))
    if services is None and selector is None:
        raise ValueError("an export that says neither services nor selector")
    return Export(services, selector, _optional_texts(item.get("namespaces")))


def _optional_texts(values: Any) -> tuple[str, ...] | None:
    return None if values is None else read.texts(values)


def _optional_selector(document: Document | None) -> Selector | None:
    return None if document is None else selector_from_document(document)


def _policy_port(port: Document) -> PolicyPort | None:
    number, end = port.get("port"), port.get("endPort")
    if not port.keys() <= PORT_FIELDS or (read.text(port.get("protocol")) or "TCP") not in read.PROTOCOLS:
        return None
    return PolicyPort(
        read.protocol(port.get("protocol")),
        None if number is None else read.port_or_name(number),
        None if end is None else read.port(end),
    )


def _attachment(meta: Meta, document: Document) -> Attachment:
    spec = _spec(document)
    return Attachment(
        meta=meta,
        network=read.text(spec["network"]),
        container_id=read.text(spec["containerID"]),
        ifname=read.text(spec["ifname"]),
        netns=read.text(spec.get("netns")),
        pod_namespace=read.text(spec["podNamespace"]),
        pod_name=read.text(spec["podName"]),
        host_ifname=read.text(spec["hostIfname"]),
        mac=read.text(spec["mac"]),
        ips=read.addresses(spec["ips"]),
        mode=read.text(spec["mode"]),
        mtu=read.whole(spec["mtu"], 0, 65536),
        boot_id=read.text(spec.get("bootID")),
        netns_id=read.text(spec.get("netnsID")),
        confirmed=bool(spec.get("confirmed")),
        pod_declared=bool(spec.get("podDeclared")),
        aliases=read.texts(spec.get("aliases")),
        host_ports=tuple(map(_host_port, spec.get("hostPorts") or ())),
        bandwidth=_bandwidth(spec.get("bandwidth") or {}),
        routes=tuple(map(read.cidr, read.texts(spec.get("routes")))),
        sysctls=tuple(sorted((read.text(name), read.text(value)) for name, value in (spec.get("sysctls") or {}).items())),
        masquerade=spec.get("masquerade") is not False,
        search_completion=spec.get("searchCompletion") is not False,
        delegate=read.text(spec.get("delegate")),
        adopted=bool(spec.get("adopted")),
    )


def _host_port(item: Document) -> HostPort:
    protocol = read.text(item["protocol"])
    if protocol not in ("tcp", "udp", "sctp"):
        raise ValueError(f"{protocol!r} is no protocol with ports")
    host_ip = read.address(item["hostIP"]) if item.get("hostIP") else ""
    return HostPort(protocol, read.port(item["hostPort"]), read.port(item["containerPort"]), host_ip)


def _bandwidth(item: Document) -> Bandwidth:
    names = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
    return Bandwidth(*(read.whole(item.get(name, 0), 0, 1 << 62) for name in names))


_DECODERS: dict[str, Callable[[Meta, Document], Object]] = {
    "Namespace": _namespace,
    "Node": _node,
    "Pod": _pod,
    "Service": _service,
    "EndpointSlice": _slice,
    "NetworkPolicy": _policy,
    "ClusterNetworkPolicy": traffic.cluster_policy,
    "ServiceCIDR": traffic.service_cidr,
    "Gateway": traffic.gateway,
    "HTTPRoute": traffic.http_route,
    "ServicePolicy": traffic.service_policy,
    "Tenant": _tenant,
    "Attachment": _attachment,
}


def _hints_document(endpoint: Endpoint) -> dict[str, Any]:
    given = {"forZones": endpoint.for_zones, "forNodes": endpoint.for_nodes}
    return {kind: [{"name": name} for name in names] for kind, names in given.items() if names}


def encode_slice(item: EndpointSlice) -> dict[str, Any]:
    """The document of an EndpointSlice: the inverse of decoding, for slices that were derived and never stored."""
    endpoints = [
        {
            "addresses": list(endpoint.addresses),
            "conditions": {"ready": endpoint.ready, "serving": endpoint.serving, "terminating": endpoint.terminating},
            **({"hostname": endpoint.hostname} if endpoint.hostname else {}),
            **({"nodeName": endpoint.node_name} if endpoint.node_name else {}),
            **({"zone": endpoint.zone} if endpoint.zone else {}),
            **({"hints": _hints_document(endpoint)} if endpoint.for_zones or endpoint.for_nodes else {}),
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
