"""What a table shows of each kind. Reads stored documents; tolerant of everything optional being absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairway_core.unenforced import unenforced

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A title, how the cell is made, and whether only the wide form shows it."""

    title: str
    cell: Callable[[Document], str]
    wide: bool = False


def columns(kind: str, *, wide: bool = False, namespaced: bool = False) -> tuple[Column, ...]:
    """The columns of `kind`; `namespaced` puts the namespace first."""
    chosen = (*((_NAMESPACE,) if namespaced else ()), _NAME, *_COLUMNS.get(kind, ()))
    return tuple(column for column in chosen if wide or not column.wide)


def pairs(mapping: Mapping[str, Any] | None) -> str:
    """Labels as `k=v,k2=v2`."""
    return ",".join(f"{key}={value}" for key, value in sorted((mapping or {}).items()))


def selector_text(selector: Document | None) -> str:
    """A LabelSelector as kubectl shows it: `app=web,tier in (a,b),!old`; everything is `*`."""
    parts = [pairs(selector.get("matchLabels"))] if selector and selector.get("matchLabels") else []
    for item in (selector or {}).get("matchExpressions") or ():
        key, operator = item.get("key"), item.get("operator")
        values = f" {str(operator).lower()} ({','.join(item.get('values') or ())})"
        parts.append({"Exists": f"{key}", "DoesNotExist": f"!{key}"}.get(operator, f"{key}{values}"))
    return ",".join(parts) or "*"


def _meta(document: Document) -> Mapping[str, Any]:
    return document.get("metadata") or {}


def _spec(document: Document) -> Mapping[str, Any]:
    return document.get("spec") or {}


def _status(document: Document) -> Mapping[str, Any]:
    return document.get("status") or {}


def _some(values: Sequence[str], limit: int = 3) -> str:
    shown = ",".join(values[:limit])
    return f"{shown} + {len(values) - limit} more..." if len(values) > limit else shown


def _field(name: str) -> Callable[[Document], str]:
    return lambda document: str(_spec(document).get(name) or "")


def _pod_ready(document: Document) -> str:
    conditions = _status(document).get("conditions") or ()
    return "True" if any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions) else "False"


def _pod_status(document: Document) -> str:
    return "Terminating" if _meta(document).get("deletionTimestamp") else _status(document).get("phase") or "Pending"


def _pod_ips(document: Document) -> str:
    status = _status(document)
    return ",".join(item["ip"] for item in status.get("podIPs") or ()) or status.get("podIP") or ""


def _cluster_ips(document: Document) -> str:
    spec = _spec(document)
    return ",".join(spec.get("clusterIPs") or ()) or spec.get("clusterIP") or ""


def _external_ips(document: Document) -> str:
    if _spec(document).get("type") == "ExternalName":
        return str(_spec(document).get("externalName") or "")
    ingress = (_status(document).get("loadBalancer") or {}).get("ingress") or ()
    return ",".join([*(_spec(document).get("externalIPs") or ()), *(item["ip"] for item in ingress if item.get("ip"))])


def _service_ports(document: Document) -> str:
    return ",".join(
        f"{port['port']}{':' + str(port['nodePort']) if port.get('nodePort') else ''}/{port.get('protocol') or 'TCP'}"
        for port in _spec(document).get("ports") or ()
    )


def _slice_ports(document: Document) -> str:
    return ",".join(str(port.get("port") or "*") for port in document.get("ports") or ())


def _slice_endpoints(document: Document) -> str:
    return _some([address for item in document.get("endpoints") or () for address in item.get("addresses") or ()])


def _policy_types(document: Document) -> str:
    spec = _spec(document)
    return ",".join(spec.get("policyTypes") or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]))


def _namespace_selector(document: Document) -> str:
    selector = _spec(document).get("namespaceSelector")
    return "" if selector is None else selector_text(selector)


def _pod_of(document: Document) -> str:
    return f"{_spec(document).get('podNamespace', '')}/{_spec(document).get('podName', '')}"


def _node_addresses(document: Document) -> str:
    return ",".join(item.get("address", "") for item in _status(document).get("addresses") or ())


def _not_enforced(document: Document) -> str:
    return _some([gap.field for gap in unenforced(document)])


def _listeners(document: Document) -> str:
    return _some([f"{item.get('port')}/{item.get('protocol')}" for item in _spec(document).get("listeners") or ()])


def _parents(document: Document) -> str:
    parents = _spec(document).get("parentRefs") or ()
    return _some([f"{item.get('kind') or 'Gateway'}/{item.get('name')}" for item in parents])


_NAMESPACE = Column("NAMESPACE", lambda document: str(_meta(document).get("namespace") or "default"))
_NAME = Column("NAME", lambda document: str(_meta(document).get("name") or ""))
_LABELS = Column("LABELS", lambda document: pairs(_meta(document).get("labels")), wide=True)

_GAPS = Column("NOT-ENFORCED", _not_enforced, wide=True)

_COLUMNS: Mapping[str, tuple[Column, ...]] = {
    "Namespace": (_LABELS,),
    "Node": (
        Column("POD-CIDRS", lambda document: ",".join(_spec(document).get("podCIDRs") or ())),
        Column("ADDRESSES", _node_addresses),
        _LABELS,
    ),
    "Pod": (
        Column("READY", _pod_ready),
        Column("STATUS", _pod_status),
        Column("IP", _pod_ips),
        Column("NODE", _field("nodeName")),
        _LABELS,
    ),
    "Service": (
        Column("TYPE", lambda document: str(_spec(document).get("type") or "ClusterIP")),
        Column("CLUSTER-IP", _cluster_ips),
        Column("EXTERNAL-IP", _external_ips),
        Column("PORT(S)", _service_ports),
        Column("SELECTOR", lambda document: pairs(_spec(document).get("selector")), wide=True),
        _GAPS,
    ),
    "EndpointSlice": (
        Column("ADDRESSTYPE", lambda document: str(document.get("addressType") or "")),
        Column("PORTS", _slice_ports),
        Column("ENDPOINTS", _slice_endpoints),
        _LABELS,
    ),
    "NetworkPolicy": (
        Column("POD-SELECTOR", lambda document: selector_text(_spec(document).get("podSelector"))),
        Column("POLICY-TYPES", _policy_types, wide=True),
        _GAPS,
    ),
    "Tenant": (
        Column("NAMESPACES", lambda document: _some(_spec(document).get("namespaces") or ())),
        Column("NAMESPACE-SELECTOR", _namespace_selector),
        Column("EXPORTS", lambda document: str(len((_spec(document).get("dns") or {}).get("exports") or ()))),
        _LABELS,
    ),
    "ServiceCIDR": (Column("CIDRS", lambda document: ",".join(_spec(document).get("cidrs") or ())),),
    "Gateway": (
        Column("CLASS", _field("gatewayClassName")),
        Column("LISTENERS", _listeners),
        _GAPS,
    ),
    "HTTPRoute": (
        Column("HOSTNAMES", lambda document: _some(_spec(document).get("hostnames") or ())),
        Column("PARENTS", _parents),
        _GAPS,
    ),
    "ServicePolicy": (
        Column("SERVICE", lambda document: str((_spec(document).get("targetRef") or {}).get("name") or "")),
        Column("ASKS-FOR", lambda document: ",".join(sorted(_spec(document).keys() - {"targetRef"}))),
        _GAPS,
    ),
    "ClusterNetworkPolicy": (
        Column("TIER", _field("tier")),
        Column("PRIORITY", _field("priority")),
        _GAPS,
    ),
    "Attachment": (
        Column("POD", _pod_of),
        Column("NETWORK", _field("network")),
        Column("INTERFACE", _field("ifname")),
        Column("IP", lambda document: ",".join(_spec(document).get("ips") or ())),
        Column("HOST-INTERFACE", _field("hostIfname"), wide=True),
        Column("MAC", _field("mac"), wide=True),
        Column("MODE", _field("mode"), wide=True),
        Column("NETNS", _field("netns"), wide=True),
    ),
}
