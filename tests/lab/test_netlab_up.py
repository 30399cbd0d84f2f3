"""Whole laboratories: real agents, containers attached through the CNI executable, names, services, isolation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.plan import NETNS_DIR
from fairway_netlab.probe import Target
from fairway_netlab.processes import pids_in
from fairway_netlab.topology import parse_topology

pytestmark = pytest.mark.needs_root

README = Path(__file__).parents[2] / "netlab" / "README.md"
Up = Callable[[str | dict[str, Any]], Lab]

WEB = [{"port": 8080}, {"protocol": "UDP", "port": 5353}]
SHOP: dict[str, Any] = {
    "nodes": [{"name": "n1"}],
    "containers": [
        {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}, "serve": WEB},
        {"name": "web-2", "namespace": "shop", "labels": {"app": "web"}, "serve": WEB},
        {"name": "client", "namespace": "shop", "labels": {"app": "client"}},
        {"name": "stranger", "namespace": "other"},
    ],
}

DECLARED = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ipFamilyPolicy: PreferDualStack, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web-only, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}]}]}
"""


def fairway(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fairway_cli.main", *arguments]
    environment = {**os.environ, "FAIRWAY_AGENT": str(lab.node().socket)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def test_a_node_with_names_services_and_isolation(lab: Up, matrix: Callable[[Lab], Matrix], tmp_path: Path) -> None:
    shop = lab(SHOP)
    assert all(len(shop.addresses(name)) == 2 for name in ("web-1", "web-2", "client", "stranger"))
    before = matrix(shop)
    for source in ("client", "stranger"):
        before.expect_some(source, "web-1", 8080).expect_some(source, "web-2", 5353, "UDP").expect_none(source, "web-1", 81)
    before.check()

    file = tmp_path / "shop.yaml"
    file.write_text(DECLARED)
    assert fairway(shop, "diff", "-f", str(file)).returncode == 1
    applied = fairway(shop, "apply", "-f", str(file), "--wait")
    assert (applied.returncode, applied.stderr) == (0, "")
    assert applied.stdout == "service/web created\nnetworkpolicy/web-only created\n"
    assert fairway(shop, "diff", "-f", str(file)).stdout == ""

    after = matrix(shop)
    answers = {"answered_by": ["web-1", "web-2"]}
    for family in (4, 6):
        after.expect_some("client", "web", 80, family=family, **answers)  # type: ignore[arg-type]
        after.expect_none("stranger", "web.shop", 80, family=family)  # type: ignore[arg-type]
    after.expect_some("client", "web-1", 8080).expect_none("stranger", "web-1", 8080).expect_none("web-1", "web-2", 8080)
    after.check()
    assert {item.name for item in shop.probe("client", [Target("web.shop.svc.cluster.local", 80)] * 40)} == {"web-1", "web-2"}
    assert shop.probe("client", [Target("web-9", 80)], timeout=3)[0].state == "no-name"

    asked = fairway(shop, "why", "other/stranger", "shop/web-1:8080")
    assert asked.returncode == 1
    assert "web-only" in asked.stdout
    assert fairway(shop, "why", "shop/client", "shop/web-1:8080").returncode == 0
    _the_command_line_speaks(shop)


def _the_command_line_speaks(shop: Lab) -> None:
    names = fairway(shop, "get", "pods", "-A", "-o", "name").stdout.split()
    assert names == ["pod/stranger", "pod/client", "pod/web-1", "pod/web-2"]
    rows = [line.split() for line in fairway(shop, "get", "po", "-n", "shop", "-l", "app=web").stdout.splitlines()]
    assert [row[0] for row in rows] == ["NAME", "web-1", "web-2"]
    assert rows[1][3] == ",".join(shop.addresses("web-1"))
    assert json.loads(fairway(shop, "get", "pod", "client", "-n", "shop", "-o", "json").stdout)["kind"] == "Pod"
    invalid = fairway(shop, "get", "pods", "-l", "!!")
    assert invalid.returncode == 2, invalid
    status = fairway(shop, "status")
    assert status.returncode == 0, status.stdout
    assert "ready" in status.stdout and "4 Pod" in status.stdout
    described = fairway(shop, "describe", "svc", "web", "-n", "shop").stdout
    assert f"{shop.address('web-1')} (web-1)" in described.splitlines()[-1]
    assert fairway(shop, "delete", "svc", "web", "-n", "shop").stdout == "service/web deleted\n"
    again = fairway(shop, "delete", "svc", "web", "-n", "shop")
    assert (again.returncode, again.stderr) == (1, "error: service/web does not exist\n")


def test_containers_come_and_go_and_agents_die_and_return(lab: Up, matrix: Callable[[Lab], Matrix]) -> None:
    shop = lab(SHOP)
    shop.add({"name": "late", "namespace": "shop", "serve": [{"port": 80}]})
    matrix(shop).expect_some("client", "late", 80).check()
    agents = pids_in([shop.node().netns])
    for pid in agents:
        os.kill(pid, signal.SIGKILL)
    matrix(shop).expect_some("client", "late", 80).check()
    shop.start_agent()
    matrix(shop).expect_some("client", "late", 80).check()
    shop.remove("late")
    assert not (NETNS_DIR / f"fwlab-{shop.name}.shop.late").exists()
    assert "late" not in fairway(shop, "get", "pods", "-A", "-o", "name").stdout


def test_the_topology_of_the_readme_two_nodes_a_link_and_a_host(lab: Up, matrix: Callable[[Lab], Matrix]) -> None:
    text = README.read_text().split("```yaml\n")[1].split("```")[0]
    topology = parse_topology("README.md", text).model_dump(exclude={"name"})
    wide = lab(topology)
    assert [node.mode for node in wide.plan.nodes] == ["bridge", "routed"]
    everything = matrix(wide)
    for source in ("client", "legacy"):
        everything.expect_some(source, "web-1", 8080).expect_some(source, "web-1", 5353, "UDP")
    for source in ("client", "web-1"):
        everything.expect_some(source, "legacy", 5432)
    everything.check()
