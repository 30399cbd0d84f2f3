"""Documents of the kinds that say what becomes of traffic as a whole, to objects. Part of `fairway_core.codec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

from fairway_core import readers as read
from fairway_core.duration import milliseconds
from fairway_core.model import (
    ClusterNetworkPolicy,
    EndpointWeight,
    Gateway,
    HealthCheck,
    HTTPRoute,
    Listener,
    Meta,
    OutlierDetection,
    RouteParent,
    ServiceCIDR,
    ServicePolicy,
    SlowStart,
)
from fairway_core.selectors import selector_from_document

Document = Mapping[str, Any]
T = TypeVar("T", HealthCheck, OutlierDetection, SlowStart)

DAY_MS = 86_400_000


def service_cidr(meta: Meta, document: Document) -> ServiceCIDR:
    """See `codec.decode`."""
    return ServiceCIDR(meta, tuple(map(read.cidr, read.texts((document.get("spec") or {}).get("cidrs")))))


def cluster_policy(meta: Meta, document: Document) -> ClusterNetworkPolicy:
    """See `codec.decode`."""
    spec = document.get("spec") or {}
    return ClusterNetworkPolicy(meta, read.text(spec.get("tier")), read.whole(spec.get("priority") or 0, 0, 1 << 31))


def gateway(meta: Meta, document: Document) -> Gateway:
    """See `codec.decode`."""
    spec = document.get("spec") or {}
    listeners = tuple(
        Listener(read.text(item["name"]), read.port(item["port"]), read.text(item["protocol"]), read.text(item.get("hostname")))
        for item in spec.get("listeners") or ()
    )
    return Gateway(meta, read.text(spec.get("gatewayClassName")), listeners)


def http_route(meta: Meta, document: Document) -> HTTPRoute:
    """See `codec.decode`."""
    spec = document.get("spec") or {}
    parents = tuple(
        RouteParent(
            read.text(item.get("kind")) or "Gateway",
            read.text(item.get("namespace")) or meta.namespace,
            read.text(item["name"]),
            read.text(item.get("sectionName")),
        )
        for item in spec.get("parentRefs") or ()
    )
    return HTTPRoute(meta, parents, read.texts(spec.get("hostnames")), len(spec.get("rules") or ()))


def service_policy(meta: Meta, document: Document) -> ServicePolicy:
    """See `codec.decode`."""
    spec = document.get("spec") or {}
    start, drain = spec.get("slowStart"), spec.get("drain")
    return ServicePolicy(
        meta,
        read.text(spec["targetRef"]["name"]),
        tuple(map(_weight, spec.get("weights") or ())),
        None if spec.get("healthCheck") is None else _health_check(spec["healthCheck"]),
        None if spec.get("outlierDetection") is None else _outlier_detection(spec["outlierDetection"]),
        None
        if start is None
        else _given(SlowStart(_duration(start["window"])), min_weight_percent=_optional(start, "minWeightPercent")),
        None if drain is None else _duration(drain["timeout"]),
    )


def _weight(item: Document) -> EndpointWeight:
    pods = None if item.get("podSelector") is None else selector_from_document(item["podSelector"])
    addresses = read.addresses(item.get("addresses"))
    if (pods is None) == (not addresses):
        raise ValueError("a weight needs podSelector or addresses, and not both")
    return EndpointWeight(read.whole(item["weight"], 0, 1000), pods, addresses)


def _health_check(item: Document) -> HealthCheck:
    http = item.get("http")
    if (http is None) == (item.get("tcp") is None):
        raise ValueError("a health check needs tcp or http, and not both")
    wanted = http or {}
    return _given(
        HealthCheck(),
        interval_ms=_optional_duration(item, "interval"),
        timeout_ms=_optional_duration(item, "timeout"),
        healthy_threshold=_optional(item, "healthyThreshold"),
        unhealthy_threshold=_optional(item, "unhealthyThreshold"),
        port=read.port(item["port"]) if item.get("port") else None,
        path=read.text(wanted["path"]) if http is not None else None,
        host=read.text(wanted.get("host")),
        statuses=tuple(read.whole(status, 100, 599) for status in wanted.get("expectedStatuses") or ()),
    )


def _outlier_detection(item: Document) -> OutlierDetection:
    return _given(
        OutlierDetection(),
        consecutive_failures=_optional(item, "consecutiveFailures"),
        interval_ms=_optional_duration(item, "interval"),
        base_ejection_ms=_optional_duration(item, "baseEjectionTime"),
        max_ejection_ms=_optional_duration(item, "maxEjectionTime"),
        max_ejection_percent=_optional(item, "maxEjectionPercent"),
    )


def _slow_start(item: Document) -> SlowStart:
    return _given(SlowStart(_duration(item["window"])), min_weight_percent=_optional(item, "minWeightPercent"))


def _given(defaults: T, **values: Any) -> T:
    """The defaults with what was said in their place."""
    return replace(defaults, **{name: value for name, value in values.items() if value is not None})


def _optional(item: Document, name: str) -> int | None:
    return None if item.get(name) is None else read.whole(item[name], 1, 100)


def _optional_duration(item: Document, name: str) -> int | None:
    return None if item.get(name) is None else _duration(item[name])


def _duration(value: Any) -> int:
    return read.whole(milliseconds(read.text(value)), 0, DAY_MS)
