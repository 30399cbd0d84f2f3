"""The optional admission policy: it fits the API's schema, and lets an agent write about its own node and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import celpy
import pytest
from tests.unit.test_kubernetes_manifests import DOCUMENTS, documents, faults, schema_of, schemas

from fairway_core.keys import Key
from fairway_store.kubernetes.events import CONDITION, CONTROLLER, Condition, Incident, condition_patch, event_document

ALL = documents("optional/own-node.yaml")
POLICIES = {item["metadata"]["name"]: item["spec"] for item in ALL if item["kind"] == "ValidatingAdmissionPolicy"}
ACCOUNT = "system:serviceaccount:kube-system:fairway"
CLAIM = "authentication.kubernetes.io/node-name"
READY = {"type": "Ready", "status": "True"}
NODE = {
    "metadata": {"name": "n1"},
    "status": {"conditions": [READY], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
}


@pytest.mark.parametrize("document", ALL, ids=lambda item: f"{item['kind']}-{item['metadata']['name']}")
def test_it_fits_the_schema(document: dict[str, Any]) -> None:
    known = schemas()
    assert faults(document, schema_of(document, known), known, document["kind"]) == []


def test_it_is_about_the_account_of_the_manifest_and_bound() -> None:
    (account,) = [item["metadata"] for item in DOCUMENTS if item["kind"] == "ServiceAccount"]
    assert f"system:serviceaccount:{account['namespace']}:{account['name']}" == ACCOUNT
    bindings = [item["spec"] for item in ALL if item["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert bindings == [{"policyName": name, "validationActions": ["Deny"]} for name in POLICIES]


def test_everything_the_agent_writes_is_looked_at() -> None:
    (role,) = [item for item in DOCUMENTS if item["kind"] == "ClusterRole"]
    written = {
        (g, r)
        for rule in role["rules"]
        if set(rule["verbs"]) - {"list", "watch"}
        for g in rule["apiGroups"]
        for r in rule["resources"]
    }
    rules = [rule for spec in POLICIES.values() for rule in spec["matchConstraints"]["resourceRules"]]
    assert {(group, resource) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"]} == written


def evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return program.evaluate({name: celpy.json_to_cel(value) for name, value in scope.items()})


def refusals(request: dict[str, Any], new: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """What an API server would say; nothing if the policy does not apply or all of it holds."""
    scope = {"request": request, "object": new, "oldObject": old or {}}
    spec = POLICIES["fairway-own-node" if request["resource"]["resource"] == "nodes" else "fairway-own-events"]
    if not all(evaluate(item["expression"], scope) for item in spec["matchConditions"]):
        return []
    scope["variables"] = {
        item["name"]: json.loads(json.dumps(str(evaluate(item["expression"], scope)))) for item in spec["variables"]
    }
    return [
        str(item.get("message") or evaluate(item["messageExpression"], scope))
        for item in spec["validations"]
        if not evaluate(item["expression"], scope)
    ]


def asked(resource: str, name: str, node: str = "n1", user: str = ACCOUNT, operation: str = "UPDATE") -> dict[str, Any]:
    extra = {CLAIM: [node]} if node else {}
    return {
        "resource": {"group": "", "version": "v1", "resource": resource},
        "name": name,
        "operation": operation,
        "userInfo": {"username": user, "extra": extra},
    }


def with_condition(document: dict[str, Any]) -> dict[str, Any]:
    """The node after the agent's own patch, as the API server merges it."""
    (written,) = condition_patch(Condition(True, "FairwayIsDown", "why", 5.0), 6.0)["status"]["conditions"]
    status = document["status"]
    others = [item for item in status["conditions"] if item["type"] != CONDITION]
    return {**document, "status": {**status, "conditions": [*others, written]}}


def test_an_agent_writes_the_condition_of_its_own_node() -> None:
    first = with_condition(NODE)
    assert refusals(asked("nodes", "n1"), first, NODE) == []
    assert refusals(asked("nodes", "n1"), with_condition(first), first) == []


def test_not_that_of_another() -> None:
    assert refusals(asked("nodes", "n2"), with_condition(NODE), NODE) == [
        "an agent on node n1 must not write the status of node n2"
    ]


def test_not_without_a_node_in_its_token() -> None:
    assert refusals(asked("nodes", "n1", node=""), NODE, NODE)[0] == f"the token of {ACCOUNT} is bound to no node"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("conditions", [{"type": "Ready", "status": "False"}], "NetworkUnavailable alone"),
        ("conditions", [], "NetworkUnavailable alone"),
        ("addresses", [], "addresses"),
        ("capacity", {"cpu": "64"}, "capacity"),
        ("allocatable", {"cpu": "64"}, "capacity"),
    ],
)
def test_nothing_else_of_its_node(field: str, value: Any, words: str) -> None:
    (refused,) = refusals(asked("nodes", "n1"), {**NODE, "status": {**NODE["status"], field: value}}, NODE)
    assert words in refused


def test_events_in_its_own_nodes_name() -> None:
    incident = Incident(Key("Pod", "shop", "web-1"), "NoAddress", "none is left")
    create = asked("events", "x", operation="CREATE")
    assert refusals(create, event_document(incident, "n1", 1.0)) == []
    assert refusals(create, event_document(incident, "n2", 1.0)) == ["an agent tells events in its own node's name"]
    assert refusals(create, {**event_document(incident, "n1", 1.0), "reportingController": "kubelet"}) != []
    # An event that all nodes share is counted by whichever node sees it again.
    assert refusals(asked("events", "x"), event_document(incident, "n2", 1.0)) == []
    assert CONTROLLER in POLICIES["fairway-own-events"]["validations"][-1]["expression"]


def test_others_are_not_its_business() -> None:
    assert refusals(asked("nodes", "n2", user="system:node:n2"), {}, {}) == []
