"""Features that are carried but not enforced are named, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kubernetes.recorded import watch_events

from fairway_core.codec import decode
from fairway_core.model import NetworkPolicy
from fairway_core.unenforced import Gap, unenforced


def fields(kind: str, **rest: Any) -> list[str]:
    return [gap.field for gap in unenforced({"kind": kind, **rest})]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity"),
        ({"sessionAffinityConfig": {"cookie": {}}}, "spec.sessionAffinityConfig.cookie"),
        ({"internalTrafficPolicy": "SameRack"}, "spec.internalTrafficPolicy"),
        ({"externalTrafficPolicy": "SameRack"}, "spec.externalTrafficPolicy"),
        ({"type": "Anycast"}, "spec.type"),
        ({"topologyKeys": ["*"]}, "spec.topologyKeys"),
        ({"ports": [{"port": 80}, {"port": 81, "weight": 3}]}, "spec.ports[1].weight"),
    ],
)
def test_each_service_feature_is_named(spec: dict[str, Any], field: str) -> None:
    assert fields("Service", spec=spec) == [field]


def test_a_service_of_every_feature_that_is_enforced_has_no_gap() -> None:
    spec = {
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1"], "selector": {"a": "b"}, "externalIPs": ["192.0.2.1"],
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
        "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "publishNotReadyAddresses": True,
        "ports": [{"name": "a", "port": 80, "protocol": "SCTP", "targetPort": "http", "nodePort": 30000, "appProtocol": "http"}],
        "loadBalancerClass": "x", "allocateLoadBalancerNodePorts": False, "ipFamilyPolicy": "RequireDualStack",
    }  # fmt: skip
    assert fields("Service", spec=spec, status={"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}]}}) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"ingress": [{"from": [{"sameLabels": ["a"]}]}]}, "spec.ingress[0].from[0].sameLabels"),
        ({"egress": [{}, {"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "asn": 1}}]}]}, "spec.egress[1].to[0].ipBlock.asn"),
        ({"egress": [{"ports": [{"port": "http", "endPort": 90}]}]}, "spec.egress[0].ports[0].endPort"),
        ({"egress": [{"ports": [{"icmpType": 8}]}]}, "spec.egress[0].ports[0].icmpType"),
        ({"ingress": [{"action": "Deny"}]}, "spec.ingress[0].action"),
        ({"ingress": [{"ports": [{"protocol": "QUIC"}]}]}, "spec.ingress[0].ports[0].protocol"),
        ({"policyTypes": ["Ingress", "Transit"]}, "spec.policyTypes[1]"),
        ({"tier": "admin"}, "spec.tier"),
    ],
)
def test_each_policy_feature_is_named(spec: dict[str, Any], field: str) -> None:
    assert fields("NetworkPolicy", spec=spec) == [field]


PEER = {"podSelector": {"matchLabels": {"app": "front"}}}


@pytest.mark.parametrize(
    ("rule", "peers", "ports"),
    [
        ({"from": [{"sameLabels": ["a"]}]}, None, None),
        ({"from": [{}]}, None, None),
        ({"from": [{"podSelector": None}]}, None, None),
        ({"from": [PEER], "ports": [{"protocol": "QUIC"}]}, None, None),
        ({"from": [PEER], "action": "Deny"}, None, None),
        ({"from": [PEER, {"sameLabels": ["a"]}], "ports": [{"icmpType": 8}, {"port": 80}]}, 1, 1),
        ({"from": [PEER]}, 1, 0),
        ({}, 0, 0),
    ],
)
def test_what_is_not_understood_of_a_policy_allows_nothing(rule: dict[str, Any], peers: int | None, ports: int | None) -> None:
    """A peer of which no field is known must not turn into "all pods", nor a rule that lost its ports into "any port"."""
    meta = {"name": "p", "namespace": "shop"}
    found = decode({"kind": "NetworkPolicy", "metadata": meta, "spec": {"podSelector": {}, "ingress": [rule]}})
    assert isinstance(found, NetworkPolicy) and found.types == {"Ingress"}
    assert [(len(item.peers), len(item.ports)) for item in found.ingress] == ([] if peers is None else [(peers, ports)])


def test_other_kinds() -> None:
    assert fields("EndpointSlice", addressType="FQDN") == ["addressType"]
    assert fields("EndpointSlice", addressType="IPv4") == []
    assert fields("ClusterNetworkPolicy") == ["spec"]
    assert fields("Gateway", spec={"gatewayClassName": "envoy"}) == ["spec"]
    parents = [{"name": "edge"}, {"kind": "Service", "group": "", "name": "web"}]
    assert fields("HTTPRoute", spec={"parentRefs": parents}) == ["spec.parentRefs[0]", "spec.parentRefs[1]"]
    assert fields("HTTPRoute", spec={}) == ["spec"]
    asked = {"targetRef": {"kind": "Service", "name": "web"}, "drain": {"timeout": "5s"}, "weights": [], "mirror": {}}
    assert fields("ServicePolicy", spec=asked) == ["spec.weights", "spec.drain", "spec.mirror"]
    assert fields("Tenant", spec={"namespaces": ["a"]}) == []
    assert fields("Pod", spec={"anything": 1}) == [] == fields("")
    assert str(Gap("spec.x", "why")) == "spec.x: why"


@pytest.mark.parametrize(
    ("plural", "kind", "known"),
    [
        ("services", "Service", set()),
        ("networkpolicies", "NetworkPolicy", set()),
        ("endpointslices", "EndpointSlice", set()),
    ],
)
def test_objects_of_a_real_server_have_no_other_gaps(plural: str, kind: str, known: set[str]) -> None:
    items = [event["object"] for event in watch_events(f"watch-{plural}") if event["type"] != "BOOKMARK"]
    assert items
    assert {gap.field for item in items for gap in unenforced({**item, "kind": kind})} == known


NAMES = ["spec", "status", "ports", "ingress", "egress", "from", "to", "ipBlock", "loadBalancer", "sessionAffinityConfig", "type"]
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        ["Service", "NetworkPolicy", "EndpointSlice", "ClusterNetworkPolicy", "Gateway", "HTTPRoute", "ServicePolicy"]
    ),
    st.dictionaries(st.sampled_from(NAMES), JUNK),
)
def test_no_document_is_too_odd(kind: str, rest: dict[str, Any]) -> None:
    found = unenforced({**rest, "kind": kind})
    assert all(gap.field and gap.reason for gap in found)
    assert found == unenforced(json.loads(json.dumps({**rest, "kind": kind})))
