"""Junk documents raise UserError and nothing else; what decodes can be used; selectors mean what their definition says."""

from __future__ import annotations

import copy
import ipaddress
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.codec import decode, encode_slice
from fairway_core.endpoints import backends, usable
from fairway_core.errors import UserError
from fairway_core.model import Endpoint, EndpointSlice, Meta, Pod, Service, SlicePort
from fairway_core.model.service import SERVICE_NAME_LABEL
from fairway_core.selectors import DOES_NOT_EXIST, EXISTS, IN, NOT_IN, selector_from_document
from fairway_core.world import Change, World

POD_PORTS = [{"name": "http", "containerPort": 80, "protocol": "TCP"}]
SELECTOR = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a"]}]}
RULE_PORTS = [{"protocol": "UDP", "port": 53, "endPort": 60}, {"port": "http"}]
BLOCK = {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}
SPECS: dict[str, dict[str, Any]] = {
    "Namespace": {},
    "Node": {
        "spec": {"podCIDRs": ["10.244.0.0/24"], "podCIDR": "10.244.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    },
    "Pod": {
        "spec": {"containers": [{"ports": POD_PORTS}], "nodeName": "n", "hostNetwork": False, "hostname": "h", "subdomain": "s"},
        "status": {"podIPs": [{"ip": "10.0.0.1"}], "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
    },
    "Service": {
        "spec": {
            "type": "NodePort",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "clusterIP": "10.96.0.1",
            "selector": {"app": "web"},
            "ports": [{"name": "web", "port": 80, "protocol": "TCP", "targetPort": "http", "nodePort": 30080}],
            "externalIPs": ["203.0.113.1"],
            "externalName": "",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.2"}]}},
    },
    "EndpointSlice": {
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "targetRef": {"kind": "Pod", "name": "p"},
                "nodeName": "n",
                "zone": "z",
                "hostname": "h",
            }
        ],
    },
    "NetworkPolicy": {
        "spec": {
            "podSelector": SELECTOR,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR}, BLOCK], "ports": RULE_PORTS}],
            "egress": [{"to": [BLOCK], "ports": RULE_PORTS}],
        }
    },
    "ServiceCIDR": {"spec": {"cidrs": ["10.96.0.0/16", "fd00::/108"]}},
    "Gateway": {"spec": {"gatewayClassName": "c", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP", "hostname": "x"}]}},
    "HTTPRoute": {"spec": {"parentRefs": [{"name": "a", "kind": "Service"}], "hostnames": ["x"], "rules": [{}]}},
    "ServicePolicy": {
        "spec": {
            "targetRef": {"kind": "Service", "name": "web"},
            "weights": [{"podSelector": SELECTOR, "weight": 1}, {"addresses": ["10.0.0.1"], "weight": 0}],
            "healthCheck": {"http": {"path": "/", "expectedStatuses": [200]}, "interval": "5s", "port": 80},
            "outlierDetection": {"consecutiveFailures": 3, "baseEjectionTime": "1s"},
            "slowStart": {"window": "30s", "minWeightPercent": 5},
            "drain": {"timeout": "1m"},
        }
    },
    "Attachment": {
        "spec": {
            "network": "n",
            "containerID": "c",
            "ifname": "eth0",
            "netns": "/run/netns/x",
            "podNamespace": "shop",
            "podName": "p",
            "hostIfname": "fwb1",
            "mac": "02:00:00:00:00:01",
            "ips": ["10.0.0.1"],
            "mode": "bridge",
            "mtu": 1500,
            "aliases": ["db"],
        }
    },
}
META = {"name": "x", "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "web"}, "annotations": {"a": "b"}, "uid": "u"}
WORDS = ["", "None", "TCP", "tcp", "IPv6", "FQDN", "Egress", "In", "Exists", "10.0.0.1", "10.0.0.0/8", "fd00::1", "fe80::1%eth0"]
SCALARS = st.sampled_from([None, True, False, -1, 0, 1, 65536, 2**70, 1.5, float("inf"), float("nan"), *WORDS]) | st.text(
    max_size=3
)
JUNK = (
    SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.sampled_from(["a", "ip", "name", "port"]), SCALARS, max_size=2)
)


def document_of(kind: str) -> dict[str, Any]:
    return copy.deepcopy({"kind": kind, "metadata": META, **SPECS[kind]})


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) inside a document."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A good document with a few fields replaced or missing."""
    document = document_of(draw(st.sampled_from(sorted(SPECS))))
    for _ in range(draw(st.integers(1, 3))):
        container, key = draw(st.sampled_from(list(places(document))))
        if draw(st.integers(0, 4)) == 0:
            del container[key]
        else:
            container[key] = draw(JUNK)
        if not list(places(document)):
            break
    return document


@pytest.mark.parametrize("kind", sorted(SPECS))
def test_a_good_document_decodes(kind: str) -> None:
    item = decode(document_of(kind))
    assert type(item).__name__ == kind and item.meta.name == "x"


@settings(max_examples=400, deadline=None)
@given(damaged() | st.dictionaries(st.sampled_from(["kind", "metadata", "spec"]), JUNK))
def test_junk_is_refused_or_usable(document: dict[str, Any]) -> None:
    try:
        item = decode(document)
    except UserError as error:
        assert str(error)
        return
    world, touched = World().apply([Change(item.meta.key(type(item).__name__), item)], 1)
    assert item.meta.key(type(item).__name__) in touched
    world.apply([Change(key, None) for key in touched], 2)
    if isinstance(item, Service):
        for port in item.ports:
            assert 1 <= port.port <= 65535 and port.protocol in ("TCP", "UDP", "SCTP")
            usable(backends(world.slices_of(item.meta.namespace, item.meta.name), port, 4))
    if isinstance(item, Pod):
        assert all(str(ipaddress.ip_address(ip)) == ip and "%" not in ip for ip in item.ips)
    if isinstance(item, EndpointSlice):
        assert all(ipaddress.ip_address(e.addresses[0]).version == item.family for e in item.endpoints)


@given(st.data())
def test_a_slice_survives_being_written_and_read(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from([4, 6]))
    ips = st.ip_addresses(v=family).map(str)
    names = st.sampled_from(["", "a", "b"])
    endpoint = st.builds(Endpoint, st.tuples(ips), st.booleans(), st.booleans(), st.booleans(), names, names, names, names)
    ports = st.builds(SlicePort, names, st.integers(0, 65535), st.sampled_from(["TCP", "UDP", "SCTP"]))
    item = EndpointSlice(
        Meta("x", "shop", {SERVICE_NAME_LABEL: "web"}),
        "web",
        family,
        tuple(data.draw(st.lists(endpoint, max_size=3))),
        tuple(data.draw(st.lists(ports, max_size=2))),
    )
    assert decode(encode_slice(item)) == item


LABELS = st.dictionaries(st.sampled_from("kl"), st.sampled_from("vw"))
VALUES = st.lists(st.sampled_from("vwx"), min_size=1, max_size=3)
EXPRESSIONS = st.lists(
    st.fixed_dictionaries({"key": st.sampled_from("kl"), "operator": st.sampled_from([IN, NOT_IN]), "values": VALUES})
    | st.fixed_dictionaries({"key": st.sampled_from("kl"), "operator": st.sampled_from([EXISTS, DOES_NOT_EXIST])}),
    max_size=3,
)


@given(LABELS, LABELS, EXPRESSIONS)
def test_a_selector_is_the_conjunction_of_its_parts(
    labels: dict[str, str], pairs: dict[str, str], expressions: list[Any]
) -> None:
    wanted = all(labels.get(key) == value for key, value in pairs.items())
    for item in expressions:
        present, value = item["key"] in labels, labels.get(item["key"])
        holds = {
            IN: value in item.get("values", ()),
            NOT_IN: value not in item.get("values", ()),
            EXISTS: present,
            DOES_NOT_EXIST: not present,
        }
        wanted = wanted and holds[item["operator"]]
    selector = selector_from_document({"matchLabels": pairs, "matchExpressions": expressions})
    assert selector.matches(labels) is wanted
    assert selector == selector_from_document({"matchExpressions": [*reversed(expressions)], "matchLabels": pairs})
    seen = {key: value for key, value in labels.items() if key in selector.keys}
    assert selector.matches(seen) is wanted
