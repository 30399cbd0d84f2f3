"""From what an API server sends to what Fairway keeps of it. Pure.

Promise: nothing that `fairway_core.codec` reads is lost; managedFields, applied configurations, container specifications and
everything else nobody reads is not kept, so that it neither fills memory nor wakes anybody when it changes. A document of a kind
without a rule here keeps spec and status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fairway_core.codec import AUTOSCALER_TAINT
from fairway_core.model.pod import MIRROR
from fairway_store.kubernetes.events import condition_of
from fairway_store.kubernetes.resources import Resource

Document = Mapping[str, Any]

_META = ("name", "namespace", "uid", "labels", "deletionTimestamp")
_META_OF = {"Node": ("creationTimestamp",)}
"""More of what a kind's metadata hold: of two nodes that claim one range the older has it."""
_ANNOTATIONS = frozenset({MIRROR})
_ENDPOINT = ("addresses", "conditions", "hostname", "nodeName", "zone", "hints")
_REFERENCE = ("kind", "name", "namespace")
_ANNOTATION_DOMAINS = ("fairway.dev", "service.kubernetes.io")


def prune(resource: Resource, item: Any) -> dict[str, Any] | None:
    """The kept part of one object; None for what has no name and so cannot be an object.

    Items of a list carry neither kind nor apiVersion (API conventions, "Lists"); they are filled in. Whatever has another
    shape than it should is passed on as it is: judging it is the decoder's business, which reports it with its name.
    """
    meta = item.get("metadata") if isinstance(item, Mapping) else None
    if not isinstance(meta, Mapping) or not isinstance(meta.get("name"), str) or not meta["name"]:
        return None
    kept = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": _metadata(meta, _META_OF.get(resource.kind, ())),
    }
    kept.update(_RULES.get(resource.kind, _other)(item))
    return kept


def _metadata(meta: Document, more: Sequence[str] = ()) -> dict[str, Any]:
    kept: dict[str, Any] = _pick(meta, (*_META, *more))
    annotations = meta.get("annotations")
    if isinstance(annotations, Mapping):
        ours = {name: value for name, value in annotations.items() if _is_kept(str(name))}
        if ours:
            kept["annotations"] = ours
    return kept


def _is_kept(annotation: str) -> bool:
    return annotation in _ANNOTATIONS or annotation.partition("/")[0].endswith(_ANNOTATION_DOMAINS)


def _pick(document: Any, names: Iterable[str]) -> Any:
    if not isinstance(document, Mapping):
        return document
    return {name: document[name] for name in names if document.get(name) is not None}


def _each(values: Any, rule: Callable[[Any], Any]) -> Any:
    return [rule(value) for value in values] if isinstance(values, list) else values


def _filled(**parts: Any) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part or part == 0}


def _pod(item: Document) -> dict[str, Any]:
    spec, status = item.get("spec"), item.get("status")
    kept = _pick(spec, ("nodeName", "hostNetwork", "hostname", "subdomain"))
    if isinstance(spec, Mapping) and isinstance(kept, dict):
        kept.update(_filled(containers=_containers(spec.get("containers")), initContainers=_sidecars(spec.get("initContainers"))))
    state = _pick(status, ("phase", "podIP", "podIPs"))
    if isinstance(status, Mapping) and isinstance(status.get("conditions"), list):
        ready = [c for c in status["conditions"] if not isinstance(c, Mapping) or c.get("type") == "Ready"]
        state.update(_filled(conditions=_each(ready, lambda c: _pick(c, ("type", "status")))))
    return _filled(spec=kept, status=state)


def _containers(containers: Any) -> Any:
    """Only named ports are kept: policies and services can refer to nothing else."""
    if not isinstance(containers, list):
        return containers
    kept = []
    for container in containers:
        ports = container.get("ports") if isinstance(container, Mapping) else None
        named = [_pick(p, ("name", "containerPort", "protocol")) for p in ports or () if isinstance(p, Mapping) and p.get("name")]
        if named:
            kept.append({"ports": named})
    return kept


def _sidecars(containers: Any) -> Any:
    """Init containers that go on running; the others are gone before anybody connects."""
    if not isinstance(containers, list):
        return containers
    lasting = [item for item in containers if isinstance(item, Mapping) and item.get("restartPolicy") == "Always"]
    return [{**kept, "restartPolicy": "Always"} for kept in _containers(lasting)]


def _service(item: Document) -> dict[str, Any]:
    return _filled(spec=item.get("spec"), status=_pick(item.get("status"), ("loadBalancer",)))


def _slice(item: Document) -> dict[str, Any]:
    kept: dict[str, Any] = _pick(item, ("addressType", "ports"))
    endpoints = _each(item.get("endpoints"), _endpoint)
    return {**kept, **_filled(endpoints=endpoints)}


def _endpoint(endpoint: Any) -> Any:
    kept = _pick(endpoint, _ENDPOINT)
    if isinstance(endpoint, Mapping) and endpoint.get("targetRef"):
        kept["targetRef"] = _pick(endpoint["targetRef"], _REFERENCE)
    return kept


def _node(item: Document) -> dict[str, Any]:
    kept = _pick(item.get("spec"), ("podCIDR", "podCIDRs"))
    if isinstance(kept, dict):
        kept.update(_filled(taints=_taints(item["spec"].get("taints"))))
    status = _pick(item.get("status"), ("addresses",))
    condition = condition_of(item)
    if condition is not None:
        # Without its times: the condition as it was is no news when it is written again.
        status["conditions"] = [_pick(condition, ("type", "status", "reason"))]
    return _filled(spec=kept, status=status)


def _taints(taints: Any) -> Any:
    """Only what says that the node will go; others come and go with its health."""
    if not isinstance(taints, list):
        return taints
    return [_pick(taint, ("key",)) for taint in taints if not isinstance(taint, Mapping) or taint.get("key") == AUTOSCALER_TAINT]


def _spec_alone(item: Document) -> dict[str, Any]:
    return _filled(spec=item.get("spec"))


def _namespace(item: Document) -> dict[str, Any]:
    return {}


def _other(item: Document) -> dict[str, Any]:
    return _filled(spec=item.get("spec"), status=item.get("status"))


_RULES: dict[str, Callable[[Document], dict[str, Any]]] = {
    "Pod": _pod,
    "Service": _service,
    "EndpointSlice": _slice,
    "Node": _node,
    "NetworkPolicy": _spec_alone,
    "ServiceCIDR": _spec_alone,
    # What other controllers report in the status of these grows with their number.
    "Gateway": _spec_alone,
    "HTTPRoute": _spec_alone,
    "ServicePolicy": _spec_alone,
    "Namespace": _namespace,
}
