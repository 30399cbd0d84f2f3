"""Somebody else changes what is ours: it is put back within seconds, and packets of both families show it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from subprocess import CalledProcessError
from typing import Any

import pytest
from tests.lab.system import container, eventually, on_node, policy, service, topology

from fairway_kernel.sysctl import Sysctls
from fairway_netlab.control import request
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
MatrixFactory = Callable[[Lab], Matrix]

SETTLE = 8.0
"""Seconds a repair may take on a busy machine; on an idle one it is under two."""


def shop(lab: LabFactory, mode: str = "bridge") -> Lab:
    """A client that may ask the service, and one that may not."""
    containers = [container("good", app="good"), container("bad", app="bad"), container("web-1", port=8080, app="web")]
    one = lab(topology(mode, containers))
    allowed = [{"from": [{"podSelector": {"matchLabels": {"app": "good"}}}]}]
    one.apply([service("web"), policy("only-good", "shop", podSelector={"matchLabels": {"app": "web"}}, ingress=allowed)])
    expected(one, Matrix).check()
    return one


def expected(one: Lab, matrix: MatrixFactory) -> Matrix:
    """What the documents say, by name and virtual IP and directly, for both families."""
    wanted = matrix(one)
    for family in (4, 6):
        both: Any = {"family": family}
        wanted.expect_some("good", "web", 80, answered_by=["web-1"], **both)
        wanted.expect_some("good", "web", 80, "UDP", answered_by=["web-1"], **both)
        wanted.expect_none("bad", "web", 80, **both)
        wanted.expect_none("bad", "web-1", 8080, **both)
    return wanted


def metric(one: Lab, name: str, **labels: str) -> float:
    """One sample of /metrics; 0 if it is not there."""
    text = request(one.node().socket, "GET", "/metrics")[1].decode()
    wanted = name + ("{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}" if labels else "")
    return next((float(line.rpartition(" ")[2]) for line in text.splitlines() if line.rpartition(" ")[0] == wanted), 0.0)


def log_of(one: Lab) -> str:
    return one.node().log_file.read_text()


def holds(one: Lab, wanted: str, *command: str) -> bool:
    """Whether a command on the node succeeds and shows `wanted`."""
    with suppress(CalledProcessError):
        return wanted in on_node(one, *command)
    return False


def test_rules_come_back_whatever_is_done_to_them(lab: LabFactory, matrix: MatrixFactory) -> None:
    one = shop(lab)
    address, address6 = one.addresses("web-1")
    on_node(one, "nft", "add table inet stranger; add chain inet stranger c { type filter hook forward priority 5; }")
    on_node(one, "nft", "add rule inet stranger c counter accept")
    foreign = on_node(one, "nft", "-s", "-a", "list", "table", "inet", "stranger")
    vip = one.request("n1", "GET", "/v1/objects/services/web?namespace=shop")["item"]["spec"]["clusterIP"]
    damages: dict[str, tuple[str, tuple[str, ...], str]] = {
        "elements": (
            f"delete element inet fairway svc4 {{ {vip} . tcp . 80 }};"
            f"delete element inet fairway policy_destination4 {{ {address} }};"
            f"delete element inet fairway policy_destination6 {{ {address6} }}",
            ("sh", "-ec", "for map in svc4 policy_destination4 policy_destination6; do nft list map inet fairway $map; done"),
            address6,
        ),
        "rules of one chain and a rule put into another": (
            "flush chain inet fairway policy_forward; insert rule inet fairway policy_invalid accept comment intruder",
            ("sh", "-c", "nft list table inet fairway | grep -c intruder || nft list chain inet fairway policy_forward"),
            "jump",
        ),
        "table of the bridge": (
            "delete table bridge fairway",
            ("nft", "list", "table", "bridge", "fairway"),
            one.address("good"),
        ),
    }
    for what, (script, look, wanted) in damages.items():
        before = _repairs(one)
        on_node(one, "nft", script)
        eventually(lambda look=look, wanted=wanted: holds(one, wanted, *look), f"{what} is put back", SETTLE)  # type: ignore[misc]
        eventually(lambda before=before: _repairs(one) > before, f"{what} is counted", SETTLE)  # type: ignore[misc]
    expected(one, matrix).check(SETTLE)
    # Meanwhile the neighbour's table was left alone: same objects, same handles (its counter counts, so -s leaves numbers out).
    assert on_node(one, "nft", "-s", "-a", "list", "table", "inet", "stranger") == foreign
    assert "rules were changed by somebody else" in log_of(one)


def _repairs(one: Lab) -> float:
    return metric(one, "fairway_drift_repairs_total", part="nft")


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_flushed_ruleset_comes_back(lab: LabFactory, matrix: MatrixFactory, mode: str) -> None:
    one = shop(lab, mode)
    on_node(one, "nft", "flush", "ruleset")
    started = time.monotonic()
    eventually(lambda: holds(one, "jump", "nft", "list", "chain", "inet", "fairway", "policy_forward"), "rules are back", SETTLE)
    assert time.monotonic() - started < SETTLE
    expected(one, matrix).check(SETTLE)
    # Counted once connections are judged anew too, a moment after the rules are back.
    eventually(lambda: _repairs(one) > 0, "the repair is counted", SETTLE)


def test_links_routes_and_addresses_come_back(lab: LabFactory, matrix: MatrixFactory) -> None:
    one = shop(lab)
    # The way to IPv6 virtual IPs goes by the first bridge and follows it by a moment.
    eventually(lambda: holds(one, "fd00:10:96::/112", "ip", "-6", "route", "show", "proto", "157"), "the node is complete")
    routes = {family: on_node(one, "ip", f"-{family}", "route", "show", "proto", "157") for family in "46"}
    neighbours = on_node(one, "ip", "neigh", "show", "nud", "permanent")
    address, address6 = one.addresses("web-1")
    damages = (
        f"ip addr del 169.254.20.10/32 dev lo; ip route del {address}/32; ip -6 route del {address6}/128;"
        "ip neigh flush nud permanent",
        "ip link set fw-fairway down",
        "ip link del fw-fairway",
    )
    for command in damages:
        on_node(one, "sh", "-ec", command)
        eventually(lambda: _wired(one, routes, neighbours), f"all is as before after {command}", SETTLE)
    expected(one, matrix).check(SETTLE)


def _wired(one: Lab, routes: dict[str, str], neighbours: str) -> bool:
    now = {family: on_node(one, "ip", f"-{family}", "route", "show", "proto", "157") for family in "46"}
    same = {f: sorted(now[f].split("\n")) == sorted(routes[f].split("\n")) for f in "46"}
    permanent = sorted(on_node(one, "ip", "neigh", "show", "nud", "permanent").split("\n"))
    ports = on_node(one, "ip", "-br", "link", "show", "master", "fw-fairway") if holds(one, "fw-", "ip", "link") else ""
    return (
        all(same.values())
        and permanent == sorted(neighbours.split("\n"))
        and ports.count("fwb") == 3
        and "169.254.20.10" in on_node(one, "ip", "addr", "show", "lo")
    )


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_a_deleted_veth_of_a_living_container_comes_back(lab: LabFactory, matrix: MatrixFactory, mode: str) -> None:
    one = shop(lab, mode)
    records = one.request("n1", "GET", "/v1/objects/attachments")["items"]
    mine = next(item["spec"] for item in records if item["spec"]["podName"] == "web-1")
    on_node(one, "ip", "link", "del", mine["hostIfname"])
    eventually(lambda: holds(one, mine["hostIfname"], "ip", "-br", "link"), "the link is back", SETTLE)
    inside = one.exec("web-1", ["ip", "-j", "addr", "show", "eth0"], check=True).stdout
    assert {item["local"] for item in json.loads(inside)[0]["addr_info"] if item["scope"] == "global"} == set(mine["ips"])
    assert mine["mac"] in inside
    expected(one, matrix).check(SETTLE)
    assert metric(one, "fairway_drift_repairs_total", part="links") > 0


def test_kernel_settings_come_back_and_are_counted(lab: LabFactory, matrix: MatrixFactory) -> None:
    one = shop(lab)
    sysctls = Sysctls(one.netns("n1"))
    foreign = {
        "net.bridge.bridge-nf-call-iptables": ("1", "0"),
        "net.bridge.bridge-nf-call-ip6tables": ("1", "0"),
        "net.ipv4.ip_forward": ("0", "1"),
        "net.ipv6.conf.all.forwarding": ("0", "1"),
        "net.netfilter.nf_conntrack_tcp_timeout_close_wait": ("60", "3600"),
    }
    present = {name: values for name, values in foreign.items() if sysctls.read(name) is not None}
    assert {"net.ipv4.ip_forward", "net.netfilter.nf_conntrack_tcp_timeout_close_wait"} <= present.keys()
    before = metric(one, "fairway_drift_repairs_total", part="sysctl")
    for name, (wrong, _right) in present.items():
        assert sysctls.write(name, wrong)
    eventually(lambda: all(sysctls.read(name) == right for name, (_, right) in present.items()), "settings are back", SETTLE)
    expected(one, matrix).check(SETTLE)
    assert metric(one, "fairway_drift_repairs_total", part="sysctl") - before >= len(present)
    lines = [json.loads(line) for line in log_of(one).splitlines() if "kernel setting changed" in line]
    assert set(present) <= {line["sysctl"] for line in lines if line["was"] == foreign.get(line["sysctl"], "?")[0]}


def test_denied_packets_and_foreign_senders_are_counted(lab: LabFactory, matrix: MatrixFactory) -> None:
    one = shop(lab)
    assert metric(one, "fairway_rule_packets_total", rule="denied-ingress") > 0
    before = metric(one, "fairway_rule_packets_total", rule="not pinned")
    spoof = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW);"
        "s.sendto(bytes([0x45,0,0,20,0,0,0,0,64,17,0,0]) + socket.inet_aton('10.9.9.9') + socket.inet_aton('10.244.0.1'),"
        "('10.244.0.1', 0))"
    )
    one.exec("bad", ["python3", "-c", spoof], check=True)
    eventually(lambda: metric(one, "fairway_rule_packets_total", rule="not pinned") > before, "the forgery is counted")
    assert metric(one, "fairway_ipam_addresses_used", cidr="10.244.0.0/24") == 3
    assert metric(one, "fairway_ipam_addresses", cidr="10.244.0.0/24") == 253
