"""The requests of list and watch, and the decoding of what comes back. Pure: bytes in, events out.

Source: Kubernetes API concepts, "Efficient detection of changes", "Retrieving large results sets in chunks", "Streaming lists",
"Watch bookmarks". resourceVersions are opaque here: kept, handed back, never compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairway_store.kubernetes.faults import ApiFault, status_fault
from fairway_store.kubernetes.resources import Resource

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
LINE_LIMIT = 32 << 20
"""Bytes of one event at most; etcd refuses objects above a few megabytes."""


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list; `token` asks for the next part, empty after the last."""

    items: tuple[Any, ...]
    version: str
    token: str


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, never ERROR. `version` is where a later watch goes on from."""

    type: str
    object: Mapping[str, Any]
    version: str
    initial_end: bool = False


def list_query(limit: int, token: str) -> dict[str, str]:
    """A consistent read (no resourceVersion): of several servers the one that lags behind must not show us the past."""
    return {"limit": str(limit), **({"continue": token} if token else {})}


def watch_query(version: str, seconds: int) -> dict[str, str]:
    """Everything after `version`, with bookmarks."""
    return {"watch": "1", "allowWatchBookmarks": "true", "resourceVersion": version, "timeoutSeconds": str(seconds)}


def streaming_query(seconds: int) -> dict[str, str]:
    """The whole collection as events, then a bookmark marked INITIAL_EVENTS_END, then a watch (KEP-3157)."""
    return {
        "watch": "1",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "timeoutSeconds": str(seconds),
    }


def page_of(document: Any, resource: Resource) -> Page:
    """Decode a list. Raises ApiFault for what is none: a proxy in between may answer 200 with anything."""
    meta = document.get("metadata") if isinstance(document, dict) else None
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(meta, dict) or not isinstance(items, list | None) or not isinstance(meta.get("resourceVersion"), str):
        raise ApiFault(f"list {resource.plural}: the answer is not a list of objects")
    return Page(tuple(items or ()), meta["resourceVersion"], str(meta.get("continue") or ""))


class WatchDecoder:
    """Cuts a watch's byte stream into events. What is left when the stream ends was half an event and is forgotten."""

    def __init__(self, resource: Resource, verb: str = "watch") -> None:
        self._resource = resource
        self._verb = verb
        self._rest = b""

    def feed(self, data: bytes) -> tuple[list[WatchEvent], ApiFault | None]:
        """The events that `data` completes, and the fault that ended them, if one did. Events before a fault are good."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        events: list[WatchEvent] = []
        for line in lines:
            if not line.strip():
                continue
            try:
                events.append(self._event(line))
            except ApiFault as fault:
                return events, fault
        if len(self._rest) > LINE_LIMIT:
            return events, ApiFault(f"{self._verb} {self._resource.plural}: an event is longer than {LINE_LIMIT} bytes")
        return events, None

    def _event(self, line: bytes) -> WatchEvent:
        try:
            document = json.loads(line)
            kind, item = document["type"], document["object"]
            if kind == "ERROR":
                raise status_fault(item, self._verb, self._resource)
            meta = item["metadata"]
            version = str(meta["resourceVersion"])
            end = kind == "BOOKMARK" and (meta.get("annotations") or {}).get(INITIAL_EVENTS_END) == "true"
        except (ValueError, LookupError, TypeError, AttributeError) as fault:
            raise ApiFault(f"{self._verb} {self._resource.plural}: not a watch event: {line[:80]!r}") from fault
        return WatchEvent(kind, item, version, end)
