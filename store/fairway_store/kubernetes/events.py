"""Events and node conditions as the API server wants them. Pure.

Source: API reference, events.k8s.io/v1 Event and v1 NodeCondition; limits: ValidateEventCreate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from fairway_core.keys import BY_NAME, Key

CONTROLLER = "fairway.dev/agent"
CONDITION = "NetworkUnavailable"
CLUSTER_NAMESPACE = "default"
"""Where events about objects without a namespace live."""
NOTE_LIMIT = 1024
INSTANCE_LIMIT = 128
NAME_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Incident:
    """Something about an object that its owner should hear of. `reason` is CamelCase, `note` a sentence.

    `shared`: every node sees the same, so the cluster gets one event of it, whichever node is first.
    """

    about: Key
    reason: str
    note: str
    uid: str = ""
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """The NetworkUnavailable condition of a node. `since` is the time of its last change, 0 for "as it was"."""

    unavailable: bool
    reason: str
    message: str
    since: float = 0.0

    @property
    def status(self) -> str:
        return str(self.unavailable)


def event_name(incident: Incident, node: str) -> str:
    """A name that is the same for the same incident, so that an agent that was restarted meets its own event again."""
    source = "" if incident.shared else node
    parts = (str(incident.about), incident.uid, incident.reason, incident.note, source)
    return f"{incident.about.name[:NAME_LIMIT].rstrip('-.')}.{sha256(chr(0).join(parts).encode()).hexdigest()[:16]}"


def event_namespace(incident: Incident) -> str:
    """The namespace of the event about an object."""
    return incident.about.namespace or CLUSTER_NAMESPACE


def event_document(incident: Incident, node: str, at: float) -> dict[str, Any]:
    """The Event of an incident first seen at `at` (seconds since the epoch) on `node`."""
    about = incident.about
    kind = BY_NAME[about.kind]
    regarding = {"apiVersion": kind.api_version, "kind": kind.name, "name": about.name}
    regarding |= {"namespace": about.namespace} if about.namespace else {}
    regarding |= {"uid": incident.uid} if incident.uid else {}
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": event_name(incident, node), "namespace": event_namespace(incident)},
        "eventTime": micro_time(at),
        "type": "Warning",
        "reason": incident.reason,
        "action": "Networking",
        "note": shortened(incident.note),
        "regarding": regarding,
        "reportingController": CONTROLLER,
        "reportingInstance": node[:INSTANCE_LIMIT],
    }


def series_patch(count: int, at: float) -> dict[str, Any]:
    """A merge patch: the incident was seen `count` times, last at `at`."""
    return {"series": {"count": count, "lastObservedTime": micro_time(at)}}


def condition_patch(condition: Condition, now: float) -> dict[str, Any]:
    """A strategic merge patch, whose conditions are merged by type: fields left out stay as they are."""
    written = {
        "type": CONDITION,
        "status": condition.status,
        "reason": condition.reason,
        "message": shortened(condition.message),
        "lastHeartbeatTime": whole_time(now),
    }
    if condition.since:
        written["lastTransitionTime"] = whole_time(condition.since)
    return {"status": {"conditions": [written]}}


def condition_of(document: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The NetworkUnavailable condition of a Node document, if it has one."""
    status = (document or {}).get("status")
    conditions = status.get("conditions") if isinstance(status, Mapping) else None
    found = (item for item in conditions or () if isinstance(item, Mapping) and item.get("type") == CONDITION)
    return next(found, None)


def shortened(text: str) -> str:
    """At most NOTE_LIMIT bytes of UTF-8, cut visibly."""
    raw = text.encode()
    return text if len(raw) <= NOTE_LIMIT else raw[: NOTE_LIMIT - 3].decode(errors="ignore") + "..."


def micro_time(at: float) -> str:
    """meta/v1 MicroTime."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def whole_time(at: float) -> str:
    """meta/v1 Time."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
