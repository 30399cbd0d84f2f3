"""What an object relates to: endpoints of a service, services and policies of a pod, pods of a policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairway_cli.client import Client

Document = Mapping[str, Any]
Relation = tuple[str, list[str]]
SERVICE_NAME_LABEL = "kubernetes.io/service-name"


def relations(client: Client, document: Document) -> Iterator[Relation]:
    """Titles and names, by asking the agent for what could relate. Raises what `client` raises."""
    find = {"Service": _of_service, "Pod": _of_pod, "NetworkPolicy": _of_policy, "Namespace": _of_namespace}
    found = find.get(document.get("kind") or "")
    if found is not None:
        yield from found(client, document)


def _of_service(client: Client, document: Document) -> Iterator[Relation]:
    name, namespace = _names(document)
    slices = client.list("endpointslices", namespace, f"{SERVICE_NAME_LABEL}={name}")
    yield "Endpoints", [text for item in slices for text in _endpoints(item)]


def _endpoints(item: Document) -> Iterator[str]:
    for endpoint in item.get("endpoints") or ():
        pod = (endpoint.get("targetRef") or {}).get("name")
        ready = (endpoint.get("conditions") or {}).get("ready") is not False
        for address in endpoint.get("addresses") or ():
            yield f"{address}{f' ({pod})' if pod else ''}{'' if ready else ' not ready'}"


def _of_pod(client: Client, document: Document) -> Iterator[Relation]:
    _, namespace = _names(document)
    labels = document["metadata"].get("labels") or {}
    services = client.list("services", namespace)
    yield "Services", [_names(item)[0] for item in services if _selects_labels(item, labels)]
    policies = client.list("networkpolicies", namespace)
    yield "Policies", [_names(item)[0] for item in policies if _selects(item, labels)]


def _of_policy(client: Client, document: Document) -> Iterator[Relation]:
    _, namespace = _names(document)
    pods = client.list("pods", namespace)
    yield "Applies to", [_names(pod)[0] for pod in pods if _selects(document, pod["metadata"].get("labels") or {})]


def _of_namespace(client: Client, document: Document) -> Iterator[Relation]:
    name = document["metadata"]["name"]
    for title, plural in (("Pods", "pods"), ("Services", "services"), ("Policies", "networkpolicies")):
        yield title, [_names(item)[0] for item in client.list(plural, name)]


def _names(document: Document) -> tuple[str, str]:
    meta = document["metadata"]
    return meta["name"], meta.get("namespace") or "default"


def _selects_labels(service: Document, labels: Mapping[str, str]) -> bool:
    selector: Mapping[str, str] = (service.get("spec") or {}).get("selector") or {}
    return bool(selector) and selector.items() <= labels.items()


def _selects(policy: Document, labels: Mapping[str, str]) -> bool:
    from fairway_core.selectors import selector_from_document

    return selector_from_document((policy.get("spec") or {}).get("podSelector") or {}).matches(labels)
