"""Whatever is thrown at the strict edge: it answers with documents that decode, or with faults, and soon."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.codec import decode
from fairway_core.documents import InvalidDocuments, check_document, validate
from fairway_core.documents.validate import check
from fairway_core.documents.yamlload import parse

DOCUMENTS: list[dict[str, Any]] = [
    {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "a"}}},
    {
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "n1"}]},
    },
    {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}, "deletionTimestamp": "x", "uid": "u"},
        "spec": {
            "nodeName": "n1", "hostNetwork": False, "hostname": "h", "subdomain": "s",
            "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "name": "http", "protocol": "TCP"}]}],
        },
        "status": {
            "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    },
    {
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop", "annotations": {"a": "b"}},
        "spec": {
            "type": "NodePort", "selector": {"app": "web"}, "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::a"],
            "ports": [
                {"name": "http", "port": 80, "targetPort": "http", "nodePort": 30080},
                {"name": "dns", "port": 53, "targetPort": 5353, "protocol": "UDP"},
            ],
            "externalIPs": ["192.0.2.7"], "sessionAffinity": "ClientIP", "publishNotReadyAddresses": True,
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
    },
    {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": ["10.0.0.1"], "conditions": {"ready": True, "serving": None, "terminating": False},
                "hostname": "h", "nodeName": "n1", "zone": "z", "targetRef": {"kind": "Pod", "name": "web-1"},
            }
        ],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    },
    {
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "p", "namespace": "shop"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}, "namespaceSelector": {}}], "ports": [{"port": 80, "endPort": 90}]}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}, {"ports": [{"port": "http"}]}],
        },
    },
]  # fmt: skip
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70000), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
    st.sampled_from(["", "None", "a", "10.0.0.1", "fd00::1", "10.0.0.0/8", "TCP", "In\n", "fe80::1%x", "10.0.0.0/8\n"]),
    st.just([]), st.just({}), st.just([None]), st.just([{}]), st.just([[]]), st.just({"a": None}),
)  # fmt: skip
YAMLISH = st.lists(
    st.sampled_from(
        ["a", "kind", "Service", ": ", ":", "- ", "\n", "\n  ", "{", "}", "[", "]", ", ", "&a ", "*a", "!x ", "|\n", ">", "'",
         '"', "---\n", "...\n", "%YAML 1.1\n", "? ", "#", "\t", "<<", "~", "1", "\\", "\ufeff", "\x85", "\u2028", "é", "\ud800"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


def edge(text: str | bytes) -> None:
    """Valid and decodable, or refused with printable, placed errors."""
    try:
        for loaded in validate("f", text):
            decode(loaded.document)
            json.dumps(loaded.document, allow_nan=False)
    except InvalidDocuments as invalid:
        str(invalid).encode()
        assert invalid.errors and all(error.place and error.place.file == "f" and error.message for error in invalid.errors)


@given(st.one_of(st.text(), YAMLISH, st.binary()))
@settings(max_examples=400, deadline=2000)
def test_any_text_is_answered(text: str | bytes) -> None:
    edge(text)


def steps(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything inside a value."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in items:
        yield (*path, step)
        yield from steps(part, (*path, step))


def mutated(document: dict[str, Any], path: tuple[str | int, ...], junk: Any, operation: str) -> dict[str, Any]:
    result = copy.deepcopy(document)
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    if operation == "replace":
        parent[path[-1]] = junk
    elif operation == "remove":
        del parent[path[-1]]
    elif isinstance(parent, list):
        parent.append(junk)
    else:
        parent[str(junk)] = junk
    return result


@given(st.data())
@settings(max_examples=600, deadline=2000)
def test_what_is_accepted_decodes(data: st.DataObject) -> None:
    """Real documents with one to three things broken in them: accepted and decodable, or refused; never an accident."""
    document = data.draw(st.sampled_from(DOCUMENTS))
    for _ in range(data.draw(st.integers(1, 3))):
        paths = sorted(steps(document), key=str)
        operation = data.draw(st.sampled_from(["replace", "remove", "add"]))
        document = mutated(document, data.draw(st.sampled_from(paths)), data.draw(JUNK), operation)
    if not check(document):
        decode(document)
    edge(json.dumps(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_the_documents_themselves_are_valid(document: dict[str, Any]) -> None:
    check_document(document)
    (loaded,) = validate("f", yaml.safe_dump(document))
    assert dict(loaded.document) == document or document["kind"] in ("Namespace", "Node")
    for path in steps(document):
        place = loaded.place(*path)
        assert place.line > 0 and place.column > 0


TREES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), TREES, max_size=4))
@settings(max_examples=80, deadline=2000)
def test_json_reads_as_json(tree: dict[str, Any]) -> None:
    for text in (json.dumps(tree), json.dumps(tree, indent=2, ensure_ascii=False)):
        (item,) = parse("f", text)
        assert item.value == tree


@given(st.dictionaries(st.text(alphabet="abz019.-~", min_size=1), TREES, min_size=1, max_size=4))
@settings(max_examples=80, deadline=2000)
def test_what_pyyaml_writes_quoted_is_read_back(tree: dict[str, Any]) -> None:
    text = yaml.safe_dump(tree, default_style='"')
    if "!!" not in text and "&id" not in text:
        (item,) = parse("f", text)
        assert item.value == tree


PLAIN = st.text(alphabet="abeExn019.-+~yf", max_size=6)


@given(st.dictionaries(PLAIN, st.lists(PLAIN, max_size=3), min_size=1, max_size=3))
@settings(max_examples=80, deadline=2000)
def test_plain_text_is_never_mistaken_for_other_text(tree: dict[str, Any]) -> None:
    """What PyYAML leaves unquoted is read as that text or refused or taken for a number or a word, as Kubernetes does."""
    text = yaml.safe_dump(tree)
    try:
        (item,) = parse("f", text)
    except InvalidDocuments as invalid:
        assert all("must be text" in error.message or "too large" in error.message for error in invalid.errors)
        return
    assert list(item.value) == list(yaml.safe_load(text))
    for wanted, found in zip(tree.values(), (item.value[key] for key in tree), strict=True):
        assert [a if isinstance(b, str) else float(a) for a, b in zip(wanted, found, strict=True)] == found
