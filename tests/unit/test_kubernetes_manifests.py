"""Manifests and the chart: every document fits the API server's own schemas, and grants exactly what the agent asks for."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import Any

import celpy
import pytest
import yaml
from pydantic import BaseModel
from tests.kubernetes.chart import render

from fairway_agent.config import Config, load_config
from fairway_core.documents import InvalidDocuments, check_document
from fairway_core.documents.schema import SCHEMAS as MODELS
from fairway_core.keys import BY_NAME, Key
from fairway_store.kubernetes.events import Incident, event_document
from fairway_store.kubernetes.resources import EVENTS, NODE_STATUS, Resource, cluster_resources

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests/kubernetes/schemas"
CHART = ROOT / "deploy/helm/fairway"
CHECKSUM = "checksum/config"


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "deploy/kubernetes" / name).read_text()))


DOCUMENTS = documents("fairway.yaml")
CRDS = documents("crds.yaml")


def schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in SCHEMAS.glob("*.json"):
        found.update(json.loads(file.read_text())["components"]["schemas"])
    return found


TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def scalar_fault(value: Any, schema: Any) -> str:
    kind = schema.get("type")
    if kind in TYPES and not isinstance(value, TYPES[kind]):
        return f"is no {kind}"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return "is out of range"
    if isinstance(value, str) and len(value) > schema.get("maxLength", len(value)):
        return "is too long"
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        return f"does not fit {schema['pattern']}"
    return f"is none of {schema['enum']}" if "enum" in schema and value not in schema["enum"] else ""


def faults(value: Any, schema: Any, known: dict[str, Any], path: str) -> list[str]:
    """Unknown and missing fields and wrong types, by path."""
    while "$ref" in schema or "allOf" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema["allOf"][0]
    wrong = scalar_fault(value, schema)
    if wrong:
        return [f"{path}: {wrong}"]
    if isinstance(value, list) and len(value) < schema.get("minItems", 0):
        return [f"{path}: is too short"]
    if isinstance(value, list):
        return [fault for i, item in enumerate(value) for fault in faults(item, schema["items"], known, f"{path}[{i}]")]
    if not isinstance(value, dict) or not schema.keys() & {"type", "properties", "additionalProperties"}:
        # JSON, and JSON schemas that may also be lists of themselves, are described as anything.
        return []
    fields, others = schema.get("properties"), schema.get("additionalProperties")
    missing = [f"{path}.{name}: missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        rule = (fields or {}).get(name, others)
        missing += [f"{path}.{name}: unknown"] if rule is None else faults(item, rule, known, f"{path}.{name}")
    return missing


def schema_of(document: dict[str, Any], known: dict[str, Any]) -> Any:
    group, _, version = document["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": document["kind"]}
    return next(item for item in known.values() if wanted in item.get("x-kubernetes-group-version-kind", ()))


@pytest.mark.parametrize("document", [*DOCUMENTS, *CRDS], ids=lambda item: item["kind"])
def test_every_manifest_fits_its_schema(document: dict[str, Any]) -> None:
    known = schemas()
    assert faults(document, schema_of(document, known), known, document["kind"]) == []


def test_the_check_finds_mistakes() -> None:
    known = schemas()
    document = json.loads(json.dumps(next(item for item in DOCUMENTS if item["kind"] == "DaemonSet")))
    document["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    del document["spec"]["selector"]
    document["spec"]["minReadySeconds"] = "1"
    assert len(faults(document, schema_of(document, known), known, "")) == 3


def test_the_role_grants_what_is_used_and_nothing_else() -> None:
    (role,) = [item for item in DOCUMENTS if item["kind"] == "ClusterRole"]
    granted = {(g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    wanted = {(group_of(item), item.plural, verb) for item in cluster_resources() for verb in ("list", "watch")}
    wanted |= {(group_of(NODE_STATUS), NODE_STATUS.plural, "patch")}
    wanted |= {(group_of(EVENTS), EVENTS.plural, verb) for verb in ("create", "patch")}
    assert granted == wanted


def group_of(resource: Resource) -> str:
    return resource.api_version.rpartition("/")[0]


def test_the_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (given,) = [item for item in DOCUMENTS if item["kind"] == "ConfigMap"]
    monkeypatch.setenv("FAIRWAY_NODE_NAME", "worker-7")
    (tmp_path / "fairway.yaml").write_text(given["data"]["fairway.yaml"])
    config: Config = load_config(tmp_path / "fairway.yaml")
    assert (config.store.kind, config.node.name) == ("kubernetes", "worker-7")
    (daemons,) = [item for item in DOCUMENTS if item["kind"] == "DaemonSet"]
    pod = daemons["spec"]["template"]["spec"]
    for item in pod["containers"]:
        assert {config.stateDir, config.runDir, "/etc/fairway"} <= {mount["mountPath"] for mount in item["volumeMounts"]}
    names = {volume["name"] for volume in pod["volumes"]}
    used = {mount["name"] for item in (*pod["containers"], *pod["initContainers"]) for mount in item["volumeMounts"]}
    assert used == names


def test_an_event_fits_its_schema() -> None:
    known = schemas()
    document = event_document(Incident(Key("Pod", "shop", "web-1"), "NoAddress", "none is left", "uid"), "n1", 1.5)
    assert faults(document, schema_of(document, known), known, "Event") == []


def container(name: str) -> dict[str, Any]:
    (daemons,) = [item for item in DOCUMENTS if item["kind"] == "DaemonSet"]
    (found,) = [item for item in daemons["spec"]["template"]["spec"]["containers"] if item["name"] == name]
    return dict(found)


def test_nothing_is_privileged_and_systemd_grants_the_same() -> None:
    added: set[str] = set()
    for name in ("dns", "agent"):
        security = container(name)["securityContext"]
        assert "privileged" not in security and security["capabilities"]["drop"] == ["ALL"]
        assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
        added |= set(security["capabilities"]["add"])
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((ROOT / "deploy/systemd/fairway-agent.service").read_text())
    bounding = unit["Service"]["CapabilityBoundingSet"].split()
    assert sorted(bounding) == sorted(f"CAP_{name}" for name in added)


def test_the_containers_agree_about_who_starts_workers_and_share_what_that_takes() -> None:
    (daemons,) = [item for item in DOCUMENTS if item["kind"] == "DaemonSet"]
    # Workers are found and watched by their process ids.
    assert daemons["spec"]["template"]["spec"]["hostPID"] is True
    says = {"name": "FAIRWAY_DNS_SUPERVISOR", "value": "host"}
    assert says in container("dns")["env"] and says in container("agent")["env"]
    paths = {"/etc/fairway", "/var/lib/fairway", "/run/fairway"}
    mounts = [[m for m in container(name)["volumeMounts"] if m["mountPath"] in paths] for name in ("dns", "agent")]
    assert mounts[0] == mounts[1] and len(mounts[0]) == len(paths)
    assert container("dns")["image"] == container("agent")["image"]


# The chart


def without_checksum(document: dict[str, Any]) -> dict[str, Any]:
    """A copy whose configuration is data, and without what only the chart needs."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    if copy["kind"] == "DaemonSet":
        meta = copy["spec"]["template"]["metadata"]
        meta.get("annotations", {}).pop(CHECKSUM, None)
        meta.update(annotations=meta.get("annotations") or None)
        if meta["annotations"] is None:
            del meta["annotations"]
    if copy["kind"] == "ConfigMap":
        copy["data"] = {name: yaml.safe_load(text) for name, text in copy["data"].items()}
    return copy


def by_kind(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {item["kind"]: without_checksum(item) for item in items}
    assert len(found) == len(items)
    return found


def test_the_chart_as_it_comes_is_the_manifest() -> None:
    assert by_kind(render(CHART, "kube-system")) == by_kind(DOCUMENTS)
    assert (CHART / "crds/crds.yaml").read_text() == (ROOT / "deploy/kubernetes/crds.yaml").read_text()


def test_every_value_of_the_chart_is_used() -> None:
    changed = {
        "image": {"repository": "example.org/fairway", "tag": "1.2.3", "pullPolicy": "Always"},
        "mode": "bridge",
        "config": {"store": {"servers": ["https://192.0.2.1:6443"]}, "log": {"level": "debug"}},
        "probe": {"host": "::1", "port": 9999},
        "maxUnavailable": "25%",
        "nodeSelector": {"a": "b"},
        "tolerations": [],
        "resources": {"limits": {"memory": "1Gi"}},
        "dnsResources": {"limits": {"memory": "1Gi"}},
    }
    assert changed.keys() == yaml.safe_load((CHART / "values.yaml").read_text()).keys()
    known, plain = schemas(), render(CHART, "net")
    for name, value in changed.items():
        found = render(CHART, "net", {name: value})
        assert found != plain, name
        assert [fault for item in found for fault in faults(item, schema_of(item, known), known, item["kind"])] == []
    assert {item["metadata"].get("namespace", "net") for item in plain} == {"net"}
    (daemons,) = [item for item in render(CHART, "net", changed) if item["kind"] == "DaemonSet"]
    assert {item["image"] for item in daemons["spec"]["template"]["spec"]["containers"]} == {"example.org/fairway:1.2.3"}


def test_a_changed_configuration_restarts_the_agents() -> None:
    def checksum(**values: Any) -> str:
        (daemons,) = [item for item in render(CHART, "net", values) if item["kind"] == "DaemonSet"]
        return str(daemons["spec"]["template"]["metadata"]["annotations"][CHECKSUM])

    assert checksum() == checksum(maxUnavailable=3) != checksum(config={"log": {"level": "debug"}})


def test_the_probe_asks_where_the_agent_listens() -> None:
    (given,) = [item for item in DOCUMENTS if item["kind"] == "ConfigMap"]
    probe = container("agent")["readinessProbe"]["httpGet"]
    assert yaml.safe_load(given["data"]["fairway.yaml"])["metrics"]["listen"] == f"{probe['host']}:{probe['port']}"


# Kinds of our own


def crd_schema(kind: str) -> dict[str, Any]:
    (crd,) = [item for item in CRDS if item["spec"]["names"]["kind"] == kind]
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def same_fields(schema: dict[str, Any], model: type[BaseModel], path: str) -> list[str]:
    """Where the CRD and the model name different fields."""
    if schema.get("type") == "array":
        return same_fields(schema["items"], model, path)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    wrong = [] if fields.keys() == schema["properties"].keys() else [f"{path}: {fields.keys() ^ schema['properties'].keys()}"]
    for name, field in fields.items():
        inner = inner_model(field.annotation)
        if inner is not None and path + name != "metadata" and inner.model_fields:
            wrong += same_fields(schema["properties"].get(name, {}), inner, f"{path}{name}.")
    return wrong


def inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in getattr(annotation, "__args__", ()) if (found := inner_model(part))), None)


@pytest.mark.parametrize("kind", [item["spec"]["names"]["kind"] for item in CRDS])
def test_a_crd_has_the_names_and_fields_of_the_model(kind: str) -> None:
    (crd,) = [item for item in CRDS if item["spec"]["names"]["kind"] == kind]
    ours, spec = BY_NAME[kind], crd["spec"]
    assert f"{spec['group']}/{spec['versions'][0]['name']}" == ours.api_version
    assert (spec["names"]["plural"], spec["names"]["shortNames"], spec["scope"] == "Namespaced") == (
        ours.plural, [ours.short], ours.namespaced
    )  # fmt: skip
    assert crd["metadata"]["name"] == f"{ours.plural}.{spec['group']}"
    assert same_fields(crd_schema(kind), MODELS[kind], "") == []


def test_every_kind_of_our_own_has_a_crd() -> None:
    ours = {kind.name for kind in BY_NAME.values() if kind.api_version.startswith("fairway.dev/")}
    assert {item["spec"]["names"]["kind"] for item in CRDS} == ours - {"Attachment"}


def unstructural(schema: dict[str, Any], path: str) -> list[str]:
    """Source: apiextensions.k8s.io/v1, "Specifying a structural schema": every node has a type, and says no more than it may."""
    wrong = [] if schema.get("type") else [f"{path}: no type"]
    wrong += [f"{path}: {name}" for name in ("$ref", "definitions", "oneOf", "anyOf", "allOf", "not") if name in schema]
    if "properties" in schema and "additionalProperties" in schema:
        wrong.append(f"{path}: both properties and additionalProperties")
    parts = {**schema.get("properties", {}), **({"[]": schema["items"]} if "items" in schema else {})}
    parts |= {"{}": schema["additionalProperties"]} if isinstance(schema.get("additionalProperties"), dict) else {}
    return wrong + [fault for name, part in parts.items() for fault in unstructural(part, f"{path}.{name}")]


@pytest.mark.parametrize("crd", CRDS, ids=lambda item: item["metadata"]["name"])
def test_schemas_of_our_kinds_are_structural(crd: dict[str, Any]) -> None:
    for version in crd["spec"]["versions"]:
        assert unstructural(version["schema"]["openAPIV3Schema"], "") == []
    assert unstructural({"properties": {"a": {"oneOf": []}}}, "") == [": no type", ".a: no type", ".a: oneOf"]


@pytest.mark.parametrize(
    ("spec", "valid"),
    [
        ({"namespaces": ["shop"]}, True),
        ({"namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}, True),
        ({"namespaces": ["shop"], "dns": {"exports": [{"services": ["web"]}]}}, True),
        ({"namespaces": ["Shop"]}, False),
        ({"namespaces": "shop"}, False),
        ({"namespaces": ["shop"], "dns": {"exports": [{"services": []}]}}, False),
        ({"namespaces": ["shop"], "dns": {"exports": ["web"]}}, False),
        ({"namespaces": ["shop"], "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}}, False),
    ],
)
def test_the_crd_takes_what_the_agent_takes(spec: dict[str, Any], valid: bool) -> None:
    assert verdicts("Tenant", spec) == (valid, valid)


def verdicts(kind: str, spec: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the CRD takes it, its rules in CEL included, and whether the agent does."""
    known = crd_schema(kind)["properties"]["spec"]
    by_crd = faults(spec, known, {}, "") == [] and broken_rules(spec, known) == []
    try:
        check_document({"apiVersion": "fairway.dev/v1", "kind": kind, "metadata": {"name": "t"}, "spec": spec})
    except InvalidDocuments:
        return by_crd, False
    return by_crd, True


def broken_rules(value: Any, schema: dict[str, Any]) -> list[str]:
    """The messages of all rules that do not hold, also further inside."""
    environment = celpy.Environment()
    wrong = []
    for item in schema.get("x-kubernetes-validations", ()):
        program = environment.program(environment.compile(item["rule"]))
        if not program.evaluate({"self": celpy.json_to_cel(value)}):
            wrong.append(str(item["message"]))
    parts = schema.get("properties", {})
    inner = [(value[name], part) for name, part in parts.items() if isinstance(value, dict) and name in value]
    inner += [(item, schema["items"]) for item in value] if isinstance(value, list) else []
    return wrong + [message for item, part in inner for message in broken_rules(item, part)]


TARGET = {"targetRef": {"kind": "Service", "name": "web"}}
WEIGHT = {"podSelector": {"matchLabels": {"track": "canary"}}, "weight": 5}


@pytest.mark.parametrize(
    ("spec", "valid"),
    [
        ({**TARGET, "weights": [WEIGHT, {"addresses": ["192.0.2.7", "2001:db8::7"], "weight": 0}]}, True),
        ({**TARGET, "healthCheck": {"tcp": {}}}, True),
        (
            {
                **TARGET,
                "healthCheck": {"http": {"path": "/healthz", "expectedStatuses": [200]}, "interval": "1s", "timeout": "1s"},
            },
            True,
        ),
        ({**TARGET, "outlierDetection": {}}, True),
        ({**TARGET, "outlierDetection": {"baseEjectionTime": "1h30m", "maxEjectionTime": "2h", "maxEjectionPercent": 100}}, True),
        ({**TARGET, "slowStart": {"window": "30s", "minWeightPercent": 1}}, True),
        ({**TARGET, "drain": {"timeout": "0s"}}, True),
        ({"targetRef": {"group": "", "kind": "Service", "name": "web"}, "drain": {"timeout": "1m"}}, True),
        (TARGET, False),
        ({"drain": {"timeout": "1m"}}, False),
        ({"targetRef": {"kind": "Gateway", "name": "web"}, "drain": {"timeout": "1m"}}, False),
        ({"targetRef": {"name": "web"}, "drain": {"timeout": "1m"}}, False),
        ({**TARGET, "weights": []}, False),
        ({**TARGET, "weights": [{"weight": 5}]}, False),
        ({**TARGET, "weights": [{**WEIGHT, "addresses": ["192.0.2.7"]}]}, False),
        ({**TARGET, "weights": [{**WEIGHT, "weight": 1001}]}, False),
        ({**TARGET, "weights": [{**WEIGHT, "weight": -1}]}, False),
        ({**TARGET, "weights": [{"podSelector": {}}]}, False),
        ({**TARGET, "healthCheck": {}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "http": {"path": "/"}}}, False),
        ({**TARGET, "healthCheck": {"http": {"path": "healthz"}}}, False),
        ({**TARGET, "healthCheck": {"http": {}}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "timeout": "6s"}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "interval": "1s"}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "interval": "5"}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "interval": "50ms", "timeout": "50ms"}}, False),
        ({**TARGET, "healthCheck": {"tcp": {}, "port": 0}}, False),
        ({**TARGET, "outlierDetection": {"baseEjectionTime": "6m"}}, False),
        ({**TARGET, "outlierDetection": {"maxEjectionPercent": 0}}, False),
        ({**TARGET, "slowStart": {}}, False),
        ({**TARGET, "drain": {"timeout": "25h"}}, False),
        ({**TARGET, "drain": {"timeout": "1.5s"}}, False),
        ({**TARGET, "drain": {"timeout": "1m"}, "retries": 3}, False),
    ],
)
def test_the_crd_takes_the_service_policies_that_the_agent_takes(spec: dict[str, Any], valid: bool) -> None:
    assert verdicts("ServicePolicy", spec) == (valid, valid)
