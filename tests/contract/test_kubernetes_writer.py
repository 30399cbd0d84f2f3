"""The node's condition and events, written to a double that judges them as an API server does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.kubernetes.double import Double, Fault

from fairway_core.keys import Key
from fairway_store.kubernetes.access import Access
from fairway_store.kubernetes.client import ApiClient
from fairway_store.kubernetes.events import Condition, Incident, condition_of, event_name, event_namespace, shortened
from fairway_store.kubernetes.faults import ApiFault, Denied, Exists, NotInstalled, Unwelcome
from fairway_store.kubernetes.timing import Timing
from fairway_store.kubernetes.writer import KubernetesWriter

LOG = logging.getLogger("test")
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {"podCIDR": "10.9.0.0/24"}}
READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}
POD = Incident(Key("Pod", "shop", "web-1"), "AddressesExhausted", "no address is left", "uid-1")
ABOUT_NODE = Incident(Key("Node", "", "n1"), "RulesNotInPlace", "rules are not in place: refused", "uid-n1")


@pytest.fixture
async def double() -> AsyncIterator[Double]:
    made = Double()
    yield made
    await made.stop()


@pytest.fixture
async def writer(double: Double) -> AsyncIterator[KubernetesWriter]:
    made = KubernetesWriter(ApiClient(Access((await double.start(),), "test"), Timing(connect=1, request=1), LOG))
    yield made
    await made.close()


def conditions(double: Double) -> dict[str, Any]:
    node: Any = double.collections["/api/v1/nodes"].objects["", "n1"]
    return {item["type"]: item for item in node["status"]["conditions"]}


async def test_only_our_condition_changes_and_its_transition_time_only_with_its_status(
    double: Double, writer: KubernetesWriter
) -> None:
    double.put({**NODE, "status": {"conditions": [READY], "capacity": {"pods": "110"}}})
    await writer.set_condition("n1", Condition(True, "NoRouteCreated", "no", since=1_000.0), 1_000.0)
    await writer.set_condition("n1", Condition(False, "FairwayIsUp", "live", since=2_000.0), 2_000.0)
    await writer.set_condition("n1", Condition(False, "FairwayIsUp", "live again"), 3_000.0)
    found = conditions(double)
    assert found["Ready"] == READY
    assert found["NetworkUnavailable"] == {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FairwayIsUp",
        "message": "live again",
        "lastTransitionTime": "1970-01-01T00:33:20Z",
        "lastHeartbeatTime": "1970-01-01T00:50:00Z",
    }
    node = double.collections["/api/v1/nodes"].objects["", "n1"]
    assert condition_of(node) == found["NetworkUnavailable"] and node["status"]["capacity"] == {"pods": "110"}


@pytest.mark.parametrize("incident", [POD, ABOUT_NODE], ids=["pod", "node"])
async def test_an_event_is_made_once_and_counted(double: Double, writer: KubernetesWriter, incident: Incident) -> None:
    await writer.create_event(incident, "n1", 1_000.5)
    with pytest.raises(Exists):
        await writer.create_event(incident, "n1", 1_001.0)
    await writer.count_event(incident, "n1", 3, 1_060.25)
    (event,) = double.writes.events.values()
    assert event["regarding"]["name"] == incident.about.name and event["regarding"]["uid"] == incident.uid
    assert event["eventTime"] == "1970-01-01T00:16:40.500000Z"
    assert event["series"] == {"count": 3, "lastObservedTime": "1970-01-01T00:17:40.250000Z"}
    assert event["metadata"]["namespace"] == ("shop" if incident is POD else "default")


async def test_an_event_that_has_expired_can_be_made_again(double: Double, writer: KubernetesWriter) -> None:
    with pytest.raises(NotInstalled):
        await writer.count_event(POD, "n1", 2, 0.0)
    await writer.create_event(POD, "n1", 0.0)


async def test_a_namespace_that_is_going_is_no_missing_permission(double: Double, writer: KubernetesWriter) -> None:
    double.writes.terminating.add("shop")
    with pytest.raises(Unwelcome, match="being terminated"):
        await writer.create_event(POD, "n1", 0.0)


@pytest.mark.parametrize(
    ("verb", "permission"),
    [("create", 'create events in API group "events.k8s.io"'), ("patch", 'patch nodes/status in API group ""')],
)
async def test_a_missing_permission_is_named(double: Double, writer: KubernetesWriter, verb: str, permission: str) -> None:
    double.misbehave(Fault(verb, 403))
    with pytest.raises(Denied, match="missing permission") as caught:
        if verb == "create":
            await writer.create_event(POD, "n1", 0.0)
        else:
            await writer.set_condition("n1", Condition(False, "FairwayIsUp", ""), 0.0)
    assert permission in str(caught.value)


async def test_other_failures_are_faults(double: Double, writer: KubernetesWriter) -> None:
    double.misbehave(Fault("create", 503))
    with pytest.raises(ApiFault, match="503"):
        await writer.create_event(POD, "n1", 0.0)
    await double.stop()
    with pytest.raises(ApiFault, match="create events: http"):
        await writer.create_event(POD, "n1", 0.0)


async def test_every_text_fits_the_limits(double: Double, writer: KubernetesWriter) -> None:
    long = Incident(Key("Pod", "shop", "p" * 253), "NetworkSetupFailed", "é" * 2000)
    await writer.create_event(long, "n" * 253, 0.0)
    (event,) = double.writes.events.values()
    assert event["note"].endswith("é...")
    assert shortened("short") == "short"


def test_names_of_events_tell_apart_what_differs() -> None:
    shared = Incident(Key("Service", "shop", "web"), "NotEnforced", "spec.x", shared=True)
    assert event_name(shared, "n1") == event_name(shared, "n2")
    assert event_name(POD, "n1") != event_name(POD, "n2")
    assert event_name(POD, "n1") != event_name(Incident(POD.about, POD.reason, "other", POD.uid), "n1")
    assert event_namespace(ABOUT_NODE) == "default"
