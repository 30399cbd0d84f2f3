"""kill -9 of the agent at any moment: store, kernel and what runs agree afterwards; nothing is leaked, given twice or flushed."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.lab.system import (
    CIDRS,
    agent_pid,
    cni,
    container,
    eventually,
    kill_agent,
    nft_json,
    objects,
    on_node,
    policy,
    service,
    topology,
)

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.plan import StationPlan

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]

PODS = 50
KILLS = 20


class Churn:
    """Attaches and detaches containers at random, as several runtimes at once; keeps what each was told last."""

    def __init__(self, lab: Lab, seed: int) -> None:
        self._lab = lab
        self._random = random.Random(seed)
        self.attached: dict[str, bool | None] = {station.title: True for station in lab.plan.stations}
        self.stop = threading.Event()
        self.errors: list[str] = []

    def run(self, stations: list[StationPlan]) -> None:
        """One runtime: a failed ADD is followed by DEL, as the spec demands; a DEL never fails."""
        while not self.stop.is_set():
            station = self._random.choice(stations)
            if self.attached[station.title]:
                error = cni(self._lab, station, "DEL")
                if error:
                    self.errors.append(f"DEL {station.title}: {error}")
                self.attached[station.title] = False
            elif cni(self._lab, station, "ADD"):
                self.attached[station.title] = False
                error = cni(self._lab, station, "DEL")
                if error:
                    self.errors.append(f"DEL after a failed ADD of {station.title}: {error}")
            else:
                self.attached[station.title] = True


@pytest.mark.timeout(300)
def test_twenty_kills_during_a_churn_of_fifty_pods(lab: LabFactory, matrix: Callable[[Lab], Matrix]) -> None:
    one = lab(topology(containers=[container(f"p{i}", port=8080, app="web") for i in range(PODS)]))
    one.apply([service("web"), policy("all-may", "shop", policyTypes=["Ingress"], ingress=[{"from": [{"podSelector": {}}]}])])
    on_node(one, "nft", "add table inet stranger; add chain inet stranger c; add rule inet stranger c counter accept")
    on_node(one, "ip", "link", "add", "strange0", "type", "bridge")
    foreign = on_node(one, "nft", "list", "table", "inet", "stranger")
    churn = Churn(one, seed=1)
    groups = [[s for i, s in enumerate(one.plan.stations) if i % 4 == part] for part in range(4)]
    moments = random.Random(2)
    with ThreadPoolExecutor(4) as pool:
        runtimes = [pool.submit(churn.run, group) for group in groups]
        try:
            for _ in range(KILLS):
                time.sleep(moments.uniform(0.0, 0.25))
                kill_agent(one)
                one.start_agent()
        finally:
            churn.stop.set()
        for runtime in runtimes:
            runtime.result()
    assert churn.errors == []
    eventually(lambda: disagreements(one, churn.attached) == [], "store, kernel and containers agree", 15)
    assert on_node(one, "nft", "list", "table", "inet", "stranger") == foreign
    assert "strange0" in on_node(one, "ip", "-br", "link")
    up = sorted(title for title, attached in churn.attached.items() if attached)
    if len(up) >= 2:
        matrix(one).expect_some(up[0], "web", 80).check()


def disagreements(one: Lab, attached: dict[str, bool | None]) -> list[str]:
    """Everything in which store, rules, links, routes and containers differ from what the runtimes were told."""
    wanted = {title for title, state in attached.items() if state}
    found = objects(one, "attachments")
    recorded = {f"{item['spec']['podNamespace']}/{item['spec']['podName']}" for item in found}
    pods = {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in objects(one, "pods")}
    inside = {s.title: _addresses(one, s) for s in one.plan.stations}
    ips = Counter(ip for item in found for ip in item["spec"]["ips"])
    links = {line.split("@")[0] for line in on_node(one, "ip", "-br", "link").splitlines() if line.startswith("fwb")}
    faults = []
    faults += [f"attachments {sorted(recorded ^ wanted)}"] if recorded != wanted else []
    faults += [f"pods {sorted(pods ^ wanted)}"] if pods != wanted else []
    faults += [f"given twice: {ip}" for ip, times in ips.items() if times > 1]
    faults += [f"links {links}"] if links != {item["spec"]["hostIfname"] for item in found} else []
    for item in found:
        title = f"{item['spec']['podNamespace']}/{item['spec']['podName']}"
        if inside.get(title) != set(item["spec"]["ips"]):
            faults.append(f"{title} has {inside.get(title)}, recorded is {item['spec']['ips']}")
    faults += [f"{title} still has {inside[title]}" for title in inside if title not in wanted and inside[title]]
    routes = {
        line.split()[0] for flag in "46" for line in on_node(one, "ip", f"-{flag}", "route", "show", "proto", "157").splitlines()
    }
    routes -= {cidr for cidr in routes if "/" in cidr}
    faults += [f"routes {sorted(routes ^ set(ips))}"] if routes != set(ips) else []
    pinned = _pinned(one)
    faults += [f"pins {sorted(pinned ^ set(ips))}"] if pinned != set(ips) else []
    return faults


def _addresses(one: Lab, station: StationPlan) -> set[str]:
    text = one.exec(station.title, ["ip", "-br", "addr", "show", "scope", "global"], check=True).stdout
    return {word.split("/")[0] for line in text.splitlines() if line.startswith("eth0") for word in line.split()[2:]}


def _pinned(one: Lab) -> set[str]:
    sets = [item["set"] for item in nft_json(one) if item.get("set", {}).get("name", "").startswith("pin_bridged")]
    return {element["concat"][2] for item in sets for element in item.get("elem", [])}


def test_a_restart_flushes_nothing_and_keeps_connections_and_names(lab: LabFactory) -> None:
    one = lab(topology(containers=[container("a", app="a"), container("b", port=8080, app="web")]))
    one.apply([service("web"), policy("closed", "shop", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}])])
    link = netns.run_in(one.netns("a"), lambda: socket.create_connection((_vip(one), 80), 5))
    assert link.recv(100)
    before = _stable(nft_json(one))
    kill_agent(one)
    # Nobody home: connections, rules and names go on.
    link.sendall(b"one")
    assert link.recv(100) == b"one"
    assert one.exec("a", ["getent", "hosts", "web"]).returncode == 0
    assert one.exec("a", ["getent", "hosts", "nothing.shop"]).returncode == 2
    one.start_agent()
    assert _stable(nft_json(one)) == before
    link.sendall(b"two")
    assert link.recv(100) == b"two"
    link.close()


def _vip(one: Lab) -> str:
    return str(objects(one, "services")[0]["spec"]["clusterIP"])


def _stable(listing: list[dict[str, Any]]) -> dict[str, Any]:
    """Contents of all sets but the generation and what packets fill, with handles, which show that nothing was made anew."""
    sets = (item.get("set") or item.get("map") for item in listing)
    return {
        item["name"]: (item["handle"], sorted(map(str, item.get("elem", []))))
        for item in sets
        if item and "generation" not in item["name"] and "dynamic" not in item.get("flags", [])
    }


def test_sigterm_is_clean_and_leaves_the_node_running(lab: LabFactory, matrix: Callable[[Lab], Matrix]) -> None:
    import os
    import signal

    one = lab(topology(containers=[container("a"), container("b", port=8080, app="web")]))
    one.apply([service("web")])
    os.kill(agent_pid(one), signal.SIGTERM)
    eventually(lambda: not one.node().socket.exists() or cni(one, one.station("a"), "CHECK"), "the agent is gone")
    check = matrix(one).expect_some("a", "web", 80)
    check.check()
    assert "(code 11)" in cni(one, one.station("a"), "CHECK")
    assert cni(one, one.station("b"), "DEL") == ""
    one.start_agent()
    eventually(lambda: len(objects(one, "attachments")) == 1, "the spooled DEL is carried out")


def test_address_families_come_from_the_configuration(lab: LabFactory) -> None:
    one = lab(topology(containers=[container("a")]))
    assert {":" in ip for ip in one.addresses("a")} == {":" in cidr for cidr in CIDRS}
