"""The few things that are written to the API server: the node's condition, and events."""

from __future__ import annotations

from typing import Protocol

from fairway_store.kubernetes.client import ApiClient, Call
from fairway_store.kubernetes.events import (
    Condition,
    Incident,
    condition_patch,
    event_document,
    event_name,
    event_namespace,
    series_patch,
)
from fairway_store.kubernetes.resources import EVENTS, NODE_STATUS

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


class ClusterWriter(Protocol):
    """Promise: one call is one request, never repeated. Everything raises ApiFault; times are seconds since the epoch."""

    async def set_condition(self, node: str, condition: Condition, now: float) -> None:
        """Write the node's NetworkUnavailable condition, and nothing else of its status."""

    async def create_event(self, incident: Incident, node: str, at: float) -> None:
        """Write the event of an incident. Raises Exists if it is there, Unwelcome if it will never be taken."""

    async def count_event(self, incident: Incident, node: str, count: int, at: float) -> None:
        """Say that it has been seen `count` times. Raises NotInstalled if the event is gone (they live for an hour)."""

    async def close(self) -> None:
        """End all connections. Idempotent."""


class KubernetesWriter:
    """A `ClusterWriter` over HTTP."""

    def __init__(self, client: ApiClient) -> None:
        """Takes over the client: `close` closes it."""
        self._client = client

    async def set_condition(self, node: str, condition: Condition, now: float) -> None:
        """See `ClusterWriter.set_condition`."""
        path, body = f"/api/v1/nodes/{node}/status", condition_patch(condition, now)
        await self._client.send(Call("patch", NODE_STATUS, method="PATCH", path=path, body=body, content_type=STRATEGIC))

    async def create_event(self, incident: Incident, node: str, at: float) -> None:
        """See `ClusterWriter.create_event`."""
        body = event_document(incident, node, at)
        await self._client.send(Call("create", EVENTS, method="POST", path=_events(incident), body=body))

    async def count_event(self, incident: Incident, node: str, count: int, at: float) -> None:
        """See `ClusterWriter.count_event`."""
        path, body = f"{_events(incident)}/{event_name(incident, node)}", series_patch(count, at)
        await self._client.send(Call("patch", EVENTS, method="PATCH", path=path, body=body, content_type=MERGE))

    async def close(self) -> None:
        """See `ClusterWriter.close`."""
        await self._client.close()


def _events(incident: Incident) -> str:
    return f"/apis/events.k8s.io/v1/namespaces/{event_namespace(incident)}/events"
