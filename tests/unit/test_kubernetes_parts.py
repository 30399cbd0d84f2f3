"""The pure parts of the Kubernetes store, on recordings of a real API server; credentials; what a node learns at its start."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes.recorded import PLURALS, answer, watch_events

from fairway_agent.cluster import learn
from fairway_agent.config import Config
from fairway_core.codec import decode
from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_store.api import Put
from fairway_store.kubernetes.access import from_kubeconfig, in_cluster, with_servers
from fairway_store.kubernetes.faults import Ahead, ApiFault, Denied, Gone, NotInstalled, NotOffered, fault_of
from fairway_store.kubernetes.protocol import WatchDecoder, page_of
from fairway_store.kubernetes.prune import prune
from fairway_store.kubernetes.resources import Resource, cluster_resources
from fairway_store.kubernetes.timing import Backoff, Timing
from fairway_store.memory import MemoryStore

RESOURCES = {resource.plural: resource for resource in cluster_resources()}
SERVICES = RESOURCES["services"]
POLICIES = Resource("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", "clusternetworkpolicies", False, False)


def recorded_items(plural: str) -> list[dict[str, Any]]:
    items = list(page_of(answer(f"list-{plural}").body, RESOURCES[plural]).items)
    return items + [event["object"] for event in watch_events(f"watch-{plural}") if event["type"] != "BOOKMARK"]


@pytest.mark.parametrize("plural", PLURALS)
def test_pruning_loses_nothing_that_is_read(plural: str) -> None:
    resource = RESOURCES[plural]
    items = recorded_items(plural)
    assert items
    for item in items:
        kept = prune(resource, item)
        assert kept is not None
        whole = {**item, "kind": resource.kind, "apiVersion": resource.api_version}
        known = decode(kept)
        annotations = dict(known.meta.annotations)
        assert all("fairway.dev" in name or "service.kubernetes.io" in name for name in annotations)
        whole["metadata"] = {**whole["metadata"], "annotations": annotations}
        assert decode(whole) == known
        assert len(json.dumps(kept)) < len(json.dumps(item)) / 1.4


def test_named_ports_of_sidecars_are_kept_those_of_other_init_containers_are_not() -> None:
    def named(name: str, port: int) -> dict[str, Any]:
        return {"name": name, "image": "x", "ports": [{"name": name, "containerPort": port}, {"containerPort": 1}]}

    sidecar = {**named("proxy", 15001), "restartPolicy": "Always"}
    spec = {"containers": [named("web", 80)], "initContainers": [named("once", 81), sidecar]}
    item = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "namespace": "b"}, "spec": spec}
    kept = prune(RESOURCES["pods"], item)
    assert kept is not None and decode(kept) == decode(item)
    assert [(port.name, port.port) for port in getattr(decode(kept), "ports", ())] == [("proxy", 15001), ("web", 80)]
    assert "once" not in json.dumps(kept) and "image" not in json.dumps(kept)


def test_a_watch_is_cut_into_the_same_events_wherever_the_stream_is_cut() -> None:
    events = watch_events("watch-services")[:6]
    data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
    for size in (1, 7, 1000, len(data)):
        decoder = WatchDecoder(SERVICES)
        found = [event for at in range(0, len(data), size) for event in decoder.feed(data[at : at + size])[0]]
        assert [(event.type, event.version) for event in found] == [
            (event["type"], event["object"]["metadata"]["resourceVersion"]) for event in events
        ]


def test_an_expired_watch_is_gone_in_the_stream() -> None:
    (event,) = watch_events("watch-expired-version")
    found, fault = WatchDecoder(SERVICES).feed(json.dumps(event).encode() + b"\n")
    assert found == [] and isinstance(fault, Gone)


@pytest.mark.parametrize("line", [b"null", b"[]", b"{}", b'{"type": "ADDED"}', b"\xff", b'{"type":"ERROR","object":3}'])
def test_a_line_that_is_no_event_is_a_fault_not_a_crash(line: bytes) -> None:
    _found, fault = WatchDecoder(SERVICES).feed(line + b"\n")
    assert type(fault) is ApiFault


@pytest.mark.parametrize(
    ("name", "kind", "wait"),
    [
        ("list-expired-continue", Gone, 0),
        ("list-future-version", Ahead, 1),
        ("missing-group", NotInstalled, 0),
        ("unauthorized", Denied, 0),
    ],
)
def test_recorded_refusals_are_understood(name: str, kind: type[ApiFault], wait: float) -> None:
    said = answer(name)
    fault = fault_of(said.status, said.headers, said.raw, "list", POLICIES)
    assert type(fault) is kind and fault.retry_after == wait


def test_a_refusal_names_the_missing_permission() -> None:
    body = json.dumps({"kind": "Status", "code": 403, "reason": "Forbidden", "message": 'User "x" cannot watch'}).encode()
    fault = fault_of(403, {}, body, "watch", RESOURCES["networkpolicies"])
    assert isinstance(fault, Denied)
    assert 'watch networkpolicies in API group "networking.k8s.io" at the cluster scope' in str(fault)
    assert isinstance(fault_of(422, {}, b"", "list", SERVICES), NotOffered)
    assert fault_of(429, {"Retry-After": "Fri, 01 Jan"}, b"<html>", "list", SERVICES).retry_after == 0


def test_backoff_grows_within_bounds_and_starts_anew_after_calm() -> None:
    now = 0.0
    backoff = Backoff(Timing(), lambda: 0.0, lambda: now)
    delays = [backoff.delay() for _ in range(10)]
    assert delays[:4] == [0.25, 0.5, 1, 2] and delays[-1] == 15
    assert backoff.delay(at_least=7) == 22
    now = 1000.0
    assert backoff.delay() == 0.25


def kubeconfig(path: Path, user: dict[str, Any], **cluster: Any) -> Path:
    document = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": "https://192.0.2.1:6443/", **cluster}}],
        "users": [{"name": "u", "user": user}],
    }
    file = path / "config"
    file.write_text(json.dumps(document))
    return file


def test_kubeconfig_with_tokens(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("first\n")
    access = from_kubeconfig(kubeconfig(tmp_path, {"token": "x", "tokenFile": "t"}))
    assert access.servers == ("https://192.0.2.1:6443",)
    assert access.bearer() == "first"
    (tmp_path / "t").write_text("second")
    assert access.bearer() == "second"
    assert from_kubeconfig(kubeconfig(tmp_path, {"token": "x"})).bearer() == "x"
    assert with_servers(access, ["https://a:1/", "https://b"]).servers == ("https://a:1", "https://b")


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ({"exec": {"command": "aws"}}, "exec is not supported"),
        ({"client-certificate-data": "?"}, "not base64"),
        ({"client-certificate-data": base64.b64encode(b"junk").decode()}, "certificates cannot be used"),
        ({"client-certificate": "none.pem", "client-key": "none.pem"}, "certificates cannot be used"),
    ],
)
def test_kubeconfig_mistakes_are_named(tmp_path: Path, user: dict[str, Any], message: str) -> None:
    file = kubeconfig(tmp_path, user)
    with pytest.raises(UserError, match=message) as caught:
        from_kubeconfig(file).tls()
    assert str(file) in str(caught.value)
    with pytest.raises(UserError, match="no context named 'b'"):
        from_kubeconfig(file, "b")


def test_in_cluster_access(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no kubeconfig is given"):
        in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1"})
    (tmp_path / "token").write_text("t")
    access = in_cluster(tmp_path, {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"})
    assert access.servers == ("https://[fd00::1]:443",) and access.bearer() == "t" and access.ca == tmp_path / "ca.crt"


async def test_pod_ranges_and_the_dns_address_come_from_the_cluster() -> None:
    store = MemoryStore()
    meta = {"name": "n1"}
    node = {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"podCIDRs": ["10.9.0.0/24", "fd00:9::/64"]}}
    spec = {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": spec}
    await store.commit([Put(Key("Node", "", "n1"), node), Put(Key("Service", "kube-system", "kube-dns"), service)])
    learnt = await learn(Config.model_validate({"node": {"name": "n1"}}), store, logging.getLogger("test"), print)
    assert learnt.node.podCIDRs == ["10.9.0.0/24", "fd00:9::/64"]
    assert learnt.dns.listen == ["169.254.20.10", "10.96.0.10"]
    given = Config.model_validate({"node": {"name": "n1", "podCIDRs": ["10.8.0.0/24"]}})
    assert (await learn(given, store, logging.getLogger("test"), print)).node.podCIDRs == ["10.8.0.0/24"]


async def test_a_node_without_pod_ranges_waits_for_them_and_says_for_what() -> None:
    import asyncio

    store, said = MemoryStore(), [""]
    config = Config.model_validate({"node": {"name": "n1"}})
    waiting = asyncio.ensure_future(learn(config, store, logging.getLogger("test"), said.append))
    await asyncio.sleep(0.01)
    assert "does not have" in said[-1]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}, "spec": {}}
    await store.commit([Put(Key("Node", "", "n1"), node)])
    await asyncio.sleep(0.01)
    assert not waiting.done() and "to have spec.podCIDRs" in said[-1]
    await store.commit([Put(Key("Node", "", "n1"), {**node, "spec": {"podCIDR": "10.9.0.0/24"}})])
    assert (await asyncio.wait_for(waiting, 5)).node.podCIDRs == ["10.9.0.0/24"]
    assert said[-1] == ""
