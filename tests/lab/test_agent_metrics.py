"""What /metrics shows is what docs/metrics.md says; and the agent runs with the rights its unit leaves it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.lab.system import container, kill_agent, service, topology
from tests.meta.test_repo_layout import unit_file

from fairway_netlab.control import request
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.run import await_agent

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
_ROW = re.compile(r"^\| `(fairway_\w+)` \| (\w+) \| (.*?) ?\| (.*) \|$", re.M)


def test_the_page_and_the_document_agree(lab: LabFactory, matrix: Callable[[Lab], Matrix]) -> None:
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    one.apply([service("web")])
    matrix(one).expect_some("a", "web", 80).check()
    text = request(one.node().socket, "GET", "/metrics")[1].decode()
    families = [item for item in text_string_to_metric_families(text) if not item.name.endswith("_created")]
    everywhere = DOCUMENT.read_text().partition("With `store: {kind: kubernetes}`")[0]
    documented = {name: (kind, help_) for name, kind, _labels, help_ in _ROW.findall(everywhere)}
    assert {item.name: (item.type, item.documentation) for item in families} == documented
    labels = {name: set(re.findall(r"`(\w+)`", cell)) for name, _kind, cell, _help in _ROW.findall(DOCUMENT.read_text())}
    for family in families:
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == labels[family.name], sample


def test_the_rights_of_the_unit_are_enough(lab: LabFactory, matrix: Callable[[Lab], Matrix]) -> None:
    """Started again with the unit's capabilities only, the agent still wires, protects and repairs."""
    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    kill_agent(one)
    rights = unit_file()["Service"]["CapabilityBoundingSet"].split()
    bounds = ",".join(["-all", *("+" + name.removeprefix("CAP_").lower() for name in rights)])
    node = one.node()
    command = [
        "nsenter", f"--net={one.netns(node.name)}", "setpriv", f"--bounding-set={bounds}", "--no-new-privs", "fairway", "agent",
        "--config", str(node.config_file),
    ]  # fmt: skip
    with node.log_file.open("ab") as log:
        agent = subprocess.Popen(_with_path(command), stdout=log, stderr=log)
    try:
        await_agent(node, agent)
        one.add({"name": "late", "namespace": "shop", "labels": {"app": "web"}, "serve": [{"port": 8080}]})
        one.apply([service("web")])
        one.exec(node.name, ["nft", "flush", "ruleset"], check=True)
        one.exec(node.name, ["ip", "route", "flush", "proto", "157"], check=True)
        wanted = matrix(one).expect_some("a", "web", 80, answered_by=["b", "late"], family=4)
        wanted.expect_some("late", "b", 8080, family=6).check(10)
    finally:
        agent.terminate()
        agent.wait(10)


def _with_path(command: list[str]) -> list[str]:
    return [str(Path(sys.executable).parent / "fairway") if word == "fairway" else word for word in command]
