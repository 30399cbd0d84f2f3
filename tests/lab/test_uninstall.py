"""`fairway uninstall --purge` on a node: refused while it is in use, nothing of ours left, nothing of others touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab import system

from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root

STRANGERS = """
ip link add fwbar0 type veth peer name fwbar1
ip link add fw-other type bridge
ip link add strange0 type bridge
ip link set strange0 up
ip addr add 203.0.113.1/24 dev strange0
ip route add 198.51.100.0/24 via 203.0.113.2 proto static
ip addr add 192.0.2.53/32 dev lo
nft 'add table inet stranger; add chain inet stranger c; add rule inet stranger c accept'
nft 'add table ip fairway; add chain ip fairway c'
"""


def uninstall(lab: Lab, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    fairway = [sys.executable, "-m", "fairway_cli.main"]
    where = ["--bin-dir", str(root / "bin"), "--conf-dir", str(root / "conf"), "--config", str(lab.node().config_file)]
    command = lab.command("n1", [*fairway, more[0], *where, *more[1:]])
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def surroundings(lab: Lab) -> dict[str, Any]:
    """All there is on the node but what packets count and when things were made."""
    commands = {
        "links": "ip -o link | grep -v -e fw[bri][0-9a-f] -e fw-shop -e fw-fairway",
        "addresses": "ip -o addr show | grep -v -e fw-fairway -e lo:fairway",
        "routes": "(ip route show; ip -6 route show) | grep -v -e fw- -e 'proto 157'",
        "rules": "ip rule; ip -6 rule",
        "tables": "nft list ruleset",
    }
    found = {name: system.on_node(lab, "bash", "-c", f"{command} || true") for name, command in commands.items()}
    return {name: re.sub(r"qlen \d+|valid_lft.*|state \w+|<[^>]*>| tentative", "", text) for name, text in found.items()}


def ours(lab: Lab) -> list[str]:
    tables = [line for line in system.on_node(lab, "nft", "list", "tables").splitlines() if "fairway" in line]
    links = re.findall(r"^\d+: (fw[^:@]*)", system.on_node(lab, "ip", "-o", "link"), re.M)
    routes = [
        line for family in "46" for line in system.on_node(lab, "ip", f"-{family}", "route", "show", "proto", "157").split()
    ]
    addresses = re.findall(r"lo:fairway|metric 157", system.on_node(lab, "ip", "-o", "addr", "show", "dev", "lo"))
    return [*tables, *links, *routes, *addresses]


def test_nothing_of_ours_is_left_and_nothing_of_others_is_touched(lab: Callable[..., Lab], tmp_path: Path) -> None:
    one = lab(system.topology("bridge", [system.container("a", port=8080, app="web"), system.container("b")]))
    one.apply([system.service("web")])
    state = Path(json.loads(one.node().config_file.read_text())["stateDir"])
    assert uninstall(one, tmp_path, "install").returncode == 0
    for line in STRANGERS.strip().splitlines():
        system.on_node(one, "bash", "-c", line)
    (state / "notes.txt").write_text("somebody's")
    strangers = ["table ip fairway", "fwbar1", "fwbar0", "fw-other"]

    running = uninstall(one, tmp_path, "uninstall", "--purge")
    assert (running.returncode, "stop it first" in running.stderr) == (2, True), running
    workers = system.on_node(one, "pgrep", "-f", f"fairway_dns.worker --feed {one.node().config['runDir']}").split()
    system.kill_agent(one)
    attached = uninstall(one, tmp_path, "uninstall", "--purge")
    assert (attached.returncode, "2 container interfaces" in attached.stderr, "shop/a" in attached.stderr) == (2, True, True)
    assert (tmp_path / "bin/fairway").exists(), "what is refused is not begun"
    assert len(ours(one)) > len(strangers)

    before = surroundings(one)
    forced = uninstall(one, tmp_path, "uninstall", "--purge", "--force")
    assert forced.returncode == 0, forced
    assert sorted(ours(one)) == sorted(strangers)
    after = surroundings(one)
    assert "table inet stranger" in before.pop("tables")
    rules = after.pop("tables")
    assert after == before
    assert "table inet stranger" in rules and "table inet fairway" not in rules
    system.eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers are gone")
    assert not (tmp_path / "bin/fairway").exists() and not any((tmp_path / "conf").iterdir())
    assert [path.name for path in state.iterdir()] == ["notes.txt"]
    assert "notes" not in forced.stdout and f"{state}: left in place" in forced.stdout
    again = uninstall(one, tmp_path, "uninstall", "--purge")
    assert again.returncode == 0 and "0 removed" in again.stdout, again

    one.start_agent()
    assert one.request("n1", "GET", "/v1/objects/services")["items"] == [], "a node like a new one"


def test_force_is_for_purge(lab: Callable[..., Lab], tmp_path: Path) -> None:
    one = lab(system.topology("bridge", []))
    done = uninstall(one, tmp_path, "uninstall", "--force")
    assert (done.returncode, "goes with --purge" in done.stderr) == (2, True)
    assert uninstall(one, tmp_path, "uninstall").returncode == 0, "the agent may run"
