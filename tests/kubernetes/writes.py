"""The writing half of the double: events are created and counted, a node's status is patched, as an API server does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"
LIMITS = {"note": 1024, "reason": 128, "reportingInstance": 128, "action": 128}
CLUSTER_NAMESPACES = ("default", "kube-system")


class RefusalError(Exception):
    """An answer that is none of success: code, reason, message, and the reason of a cause."""

    def __init__(self, code: int, reason: str, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.cause = code, reason, message, cause


@dataclass
class Writes:
    """What was written. `terminating` names namespaces that take nothing new."""

    node: Callable[[str], dict[str, Any] | None]
    put: Callable[[Mapping[str, Any]], dict[str, Any]]
    events: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    terminating: set[str] = field(default_factory=set)
    conditions: int = 0

    def knows(self, method: str, path: str, content_type: str) -> bool:
        """Whether this is what an agent writes."""
        return "/events" in path or content_type == STRATEGIC

    def carry_out(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and object. Raises RefusalError."""
        document = json.loads(body)
        match method, path.strip("/").split("/"):
            case "POST", ["apis", "events.k8s.io", "v1", "namespaces", namespace, "events"]:
                return 201, self._create(namespace, document)
            case "PATCH", ["apis", "events.k8s.io", "v1", "namespaces", namespace, "events", name]:
                return 200, self._count((namespace, name), content_type, document)
            case "PATCH", ["api", "v1", "nodes", name, "status"]:
                return 200, self._status(name, content_type, document)
        raise RefusalError(405, "MethodNotAllowed", f"{method} {path}")

    def _create(self, namespace: str, event: dict[str, Any]) -> dict[str, Any]:
        if namespace in self.terminating:
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise RefusalError(403, "Forbidden", message, "NamespaceTerminating")
        check_event(namespace, event)
        key = (namespace, event["metadata"]["name"])
        if key in self.events:
            raise RefusalError(409, "AlreadyExists", f"events {key[1]!r} already exists")
        self.events[key] = event
        return event

    def _count(self, key: tuple[str, str], content_type: str, patch: dict[str, Any]) -> dict[str, Any]:
        if content_type != MERGE or set(patch) != {"series"}:
            raise RefusalError(422, "Invalid", "only the series of an event may change")
        if key not in self.events:
            raise RefusalError(404, "NotFound", f"events {key[1]!r} not found")
        if patch["series"]["count"] < 2 or not patch["series"]["lastObservedTime"].endswith("Z"):
            raise RefusalError(422, "Invalid", f"series {patch['series']}")
        self.events[key] |= patch
        return self.events[key]

    def _status(self, name: str, content_type: str, patch: dict[str, Any]) -> dict[str, Any]:
        node = self.node(name)
        if node is None:
            raise RefusalError(404, "NotFound", f"nodes {name!r} not found")
        if content_type != STRATEGIC or set(patch) != {"status"} or set(patch["status"]) != {"conditions"}:
            raise RefusalError(422, "Invalid", "more than conditions is written")
        node = json.loads(json.dumps(node))
        conditions = {item["type"]: item for item in node.setdefault("status", {}).get("conditions", ())}
        for given in patch["status"]["conditions"]:
            conditions[given["type"]] = {**conditions.get(given["type"], {}), **given}
        node["status"]["conditions"] = list(conditions.values())
        self.conditions += 1
        return self.put(node)


def check_event(namespace: str, event: dict[str, Any]) -> None:
    """As ValidateEventCreate for events.k8s.io/v1. Raises RefusalError."""
    needed = ("eventTime", "reportingController", "reportingInstance", "action", "reason", "regarding", "type")
    faults = [name for name in needed if not event.get(name)]
    faults += [name for name, limit in LIMITS.items() if len(event.get(name, "").encode()) > limit]
    there = event.get("regarding", {}).get("namespace")
    if not (there == namespace if there else namespace in CLUSTER_NAMESPACES):
        faults.append("namespace")
    if event.get("type") not in ("Normal", "Warning") or len(event["metadata"]["name"]) > 253:
        faults.append("type or name")
    if faults:
        raise RefusalError(422, "Invalid", f"event: {', '.join(faults)}")
