"""deploy/kubernetes: every document fits the API server's own schemas, and grants exactly what the agent asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from fairway_agent.config import Config, load_config
from fairway_store.kubernetes.resources import cluster_resources

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "tests/kubernetes/schemas"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/fairway.yaml").read_text()))


def schemas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in SCHEMAS.glob("*.json"):
        found.update(json.loads(file.read_text())["components"]["schemas"])
    return found


def faults(value: Any, schema: Any, known: dict[str, Any], path: str) -> list[str]:
    """Unknown and missing fields and wrong types, by path."""
    while "$ref" in schema or "allOf" in schema:
        schema = known[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema["allOf"][0]
    types: Any = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    kind = schema.get("type")
    if kind in types and not isinstance(value, types[kind]):
        return [f"{path}: is no {kind}"]
    if isinstance(value, list):
        return [fault for i, item in enumerate(value) for fault in faults(item, schema["items"], known, f"{path}[{i}]")]
    if not isinstance(value, dict):
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


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda item: item["kind"])
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


def test_the_role_grants_what_is_read_and_nothing_else() -> None:
    (role,) = [item for item in DOCUMENTS if item["kind"] == "ClusterRole"]
    granted = {(g, r, v) for rule in role["rules"] for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    read = [(item.api_version.rpartition("/")[0], item.plural) for item in cluster_resources() if item.required]
    assert granted == {(group, plural, verb) for group, plural in read for verb in ("list", "watch")}


def test_the_configuration_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (given,) = [item for item in DOCUMENTS if item["kind"] == "ConfigMap"]
    monkeypatch.setenv("FAIRWAY_NODE_NAME", "worker-7")
    (tmp_path / "fairway.yaml").write_text(given["data"]["fairway.yaml"])
    config: Config = load_config(tmp_path / "fairway.yaml")
    assert (config.store.kind, config.node.name) == ("kubernetes", "worker-7")
    (daemons,) = [item for item in DOCUMENTS if item["kind"] == "DaemonSet"]
    pod = daemons["spec"]["template"]["spec"]
    mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {config.stateDir, config.runDir, "/etc/fairway"} <= mounted
    names = {volume["name"] for volume in pod["volumes"]}
    used = {mount["name"] for item in (*pod["containers"], *pod["initContainers"]) for mount in item["volumeMounts"]}
    assert used == names
