"""Beside the plugins of others: after their main plugin, with their address plugins; several interfaces and ranges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_cli.client import Client
from fairway_core.keys import Key
from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root

PEERS = Path("/usr/lib/cni")


@pytest.fixture(scope="module")
def node() -> Iterator[Lab]:
    containers = [system.container("web", port=8080, app="web"), system.container("cli"), system.container("third", port=8080)]
    with LabSession() as session:
        # A name of its own: other sessions of this process count from one too.
        yield session.up({"name": f"others{os.getpid()}", **system.topology("bridge", containers)})


@pytest.fixture
def stage(node: Lab) -> Iterator[Lab]:
    """The node with all three attached, and without anything declared."""
    for name in ("web", "cli", "third"):
        call(node, name, "DEL", {})
        assert "code" not in call(node, name, "ADD", {})
    yield node
    declared = [item for plural in ("services", "networkpolicies") for item in system.objects(node, plural)]
    keys = [Key(item["kind"], item["metadata"]["namespace"], item["metadata"]["name"]) for item in declared]
    Client(str(node.node().socket)).delete(keys)


def foreign(lab: Lab, name: str, command: str, config: dict[str, Any]) -> dict[str, Any]:
    """Debian's bridge in the node's namespace."""
    station = lab.station(name)
    environment = {
        "CNI_COMMAND": command, "CNI_CONTAINERID": station.container_id, "CNI_NETNS": lab.netns(name), "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PEERS),
    }  # fmt: skip
    done = subprocess.run(
        lab.command("n1", [str(PEERS / "bridge")]),
        input=json.dumps(config), env={**os.environ, **environment}, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout)) if done.stdout else {}


def state(lab: Lab, source: str, ip: str) -> str:
    (outcome,) = lab.probe(source, [Target(ip, 8080)], timeout=0.5)
    return outcome.state


def test_after_somebody_elses_bridge(stage: Lab, tmp_path: Path) -> None:
    main = {
        "cniVersion": "1.0.0", "name": "fairway", "type": "bridge", "bridge": "peer0", "isDefaultGateway": True,
        "ipam": {"type": "host-local", "subnet": "10.77.0.0/24", "dataDir": str(tmp_path)},
    }  # fmt: skip
    call(stage, "web", "DEL", {})
    before = foreign(stage, "web", "ADD", main)
    ports = [{"hostPort": 9090, "containerPort": 8080}]
    result = call(stage, "web", "ADD", {"portMappings": ports}, prevResult=before)
    assert {**result, "dns": None} == {**before, "dns": None}
    ip = before["ips"][0]["address"].split("/")[0]
    (pod,) = [item for item in system.objects(stage, "pods") if item["metadata"]["name"] == "web"]
    assert (pod["status"]["podIP"], pod["metadata"]["labels"]) == (ip, {"app": "web"})
    assert state(stage, "cli", ip) == "open"
    stage.apply([system.service("web"), system.policy("closed", "shop", podSelector={"matchLabels": {"app": "web"}})])
    assert state(stage, "cli", ip) == "refused", "policy holds for their interface"
    assert stage.exec("cli", ["getent", "hosts", "web"], check=True).stdout, "and names resolve"
    assert call(stage, "web", "CHECK", {}, prevResult=before) == {}
    assert call(stage, "third", "ADD", {"bandwidth": {"ingressRate": 1 << 20}}, ifname="x0", prevResult=before)["code"] == 2
    assert call(stage, "web", "ADD", {}, prevResult=before)["code"] == 102
    system.kill_agent(stage)
    stage.start_agent()
    assert call(stage, "web", "CHECK", {}, prevResult=before) == {}, "a new agent keeps it"
    assert call(stage, "web", "GC", {}, cniVersion="1.1.0", **{"cni.dev/valid-attachments": []}) == {}
    assert not [item for item in system.objects(stage, "pods") if item["metadata"]["name"] == "web"]
    assert "eth0" in stage.exec("web", ["ip", "-o", "link"]).stdout, "their interface is theirs"
    call(stage, "web", "DEL", {}, prevResult=before)
    foreign(stage, "web", "DEL", main)


def reserved(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "fairway").glob("10.*"))


def test_addresses_from_host_local_go_back_on_every_path(stage: Lab, tmp_path: Path) -> None:
    ipam = {"type": "host-local", "subnet": "10.78.0.0/24", "dataDir": str(tmp_path)}
    for name in ("web", "cli", "third"):
        call(stage, name, "DEL", {})
    result = call(stage, "web", "ADD", {}, ipam=ipam)
    assert "ips" in result, result
    assert result["ips"][0]["address"] == "10.78.0.2/32"
    assert reserved(tmp_path) == ["10.78.0.2"]
    assert call(stage, "web", "CHECK", {}, ipam=ipam) == {}
    call(stage, "cli", "ADD", {}, ipam=ipam)
    assert state(stage, "cli", "10.78.0.2") == "open"
    assert call(stage, "third", "ADD", {}, ipam=ipam, sysctl={"net.ipv4.tcp_no_such_setting": "1"})["code"] == 101
    assert reserved(tmp_path) == ["10.78.0.2", "10.78.0.3"], "a failed ADD gives its address back"
    call(stage, "web", "DEL", {}, ipam=ipam, netns="/run/netns/gone")
    assert reserved(tmp_path) == ["10.78.0.3"], "a DEL without a namespace as well"
    assert call(stage, "cli", "GC", {}, cniVersion="1.1.0", **{"cni.dev/attachments": []}) == {}
    assert reserved(tmp_path) == [], "and GC, which knows no configuration of old"
    assert call(stage, "cli", "ADD", {}, ipam={"type": "no-such"})["code"] == 106
    static = {"type": "static", "addresses": [{"address": "10.79.0.9/24"}]}
    assert call(stage, "cli", "ADD", {}, ipam=static)["ips"][0]["address"] == "10.79.0.9/32"


def test_two_interfaces_with_ranges_routes_and_settings_of_their_own(stage: Lab) -> None:
    ranges = [[{"subnet": "10.99.0.0/24", "rangeStart": "10.99.0.10", "rangeEnd": "10.99.0.12", "exclude": ["10.99.0.11"]}]]
    more: dict[str, Any] = {
        "name": "second", "routes": [{"dst": "198.51.100.0/24"}], "ipMasq": False,
        "sysctl": {"net.ipv4.conf.IFNAME.arp_notify": "1", "net.core.somaxconn": "77"},
    }  # fmt: skip
    ips = []
    for name in ("cli", "web"):
        result = call(stage, name, "ADD", {"ipRanges": ranges}, ifname="net1", **more)
        ips.append(result["ips"][0]["address"])
        assert {"dst": "198.51.100.0/24", "gw": "169.254.1.1"} in result["routes"]
    assert ips == ["10.99.0.10/32", "10.99.0.12/32"]
    assert "10.99.0.0/24: 2 of 2 in use" in call(stage, "third", "ADD", {"ipRanges": ranges}, ifname="net1", **more)["msg"]
    shown = subprocess.run(
        [sys.executable, "-m", "fairway_cli.main", "get", "ipam", "--agent", str(stage.node().socket)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert ["10.99.0.0/24", "10.99.0.10-10.99.0.12", "2", "0", "2"] in [line.split() for line in shown.splitlines()], shown
    assert state(stage, "cli", "10.99.0.12") == "open"
    assert "dev net1" in stage.exec("cli", ["ip", "route", "get", "198.51.100.7"], check=True).stdout
    for name, value in (("net/ipv4/conf/net1/arp_notify", "1"), ("net/core/somaxconn", "77")):
        path = Path("/proc/sys", name)
        assert netns.run_in(stage.netns("cli"), lambda path=path: path.read_text().strip()) == value  # type: ignore[misc]
    assert "10.99.0.10" in system.on_node(stage, "nft", "list", "set", "inet", "fairway", "masq_never4")
    for name in ("cli", "web"):
        call(stage, name, "DEL", {}, ifname="net1", **more)
    (pod,) = [item for item in system.objects(stage, "pods") if item["metadata"]["name"] == "web"]
    assert state(stage, "cli", pod["status"]["podIP"]) == "open", "the first interface is still there"
