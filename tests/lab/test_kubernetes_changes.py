"""What a cluster changes under a running node: its DNS Service moves, its own Node object says otherwise or goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import Cluster, PodSpec, cluster, container_of, node_of, pod_of
from tests.lab.system import eventually, kill_agent, on_node

from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]
FIRST, SECOND = "10.96.0.10", "10.96.0.11"
NAME = "web.shop.svc.cluster.local"
# A query that is not answered is sent once more, as every resolver does; what fails twice is lost.
ASKING = """
import select, sys, dns.message, dns.query
lost = asked = 0
while asked < 20 or not select.select([sys.stdin], [], [], 0.02)[0]:
    asked += 1
    if asked == 2:
        print("asking", flush=True)
    for attempt in range(2):
        try:
            reply = dns.query.udp(dns.message.make_query(sys.argv[1], "A"), sys.argv[2], timeout=2)
            if reply.answer:
                break
        except Exception as error:
            print(error, file=sys.stderr)
    else:
        lost += 1
print(asked, lost)
"""


def dns_service(ip: str) -> dict[str, Any]:
    ports = [{"name": p.lower(), "port": 53, "protocol": p} for p in ("TCP", "UDP")]
    spec = {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": spec}


def answers(one: Cluster, server: str) -> bool:
    """Whether a container gets an answer there."""
    asked = "q.udp(dns.message.make_query(sys.argv[1], 'A'), sys.argv[2], timeout=1)"
    code = f"import sys, dns.message, dns.query as q\nprint({asked}.answer)"
    return "10.96.0.50" in one.lab.exec("front", [sys.executable, "-c", code, NAME, server]).stdout


@contextmanager
def asking(one: Cluster, server: str) -> Iterator[list[int]]:
    """Ask all the time; the list holds how many questions there were, and how many were lost, afterwards."""
    command = one.lab.command("front", [sys.executable, "-c", ASKING, NAME, server])
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    counts: list[int] = []
    try:
        assert process.stdout is not None and process.stdout.readline() == "asking\n"
        yield counts
        counts += map(int, process.communicate("stop\n", timeout=10)[0].split())
    finally:
        process.kill()
        process.wait()


def test_the_dns_service_appears_moves_and_loses_its_address(lab: LabFactory, tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("front", 1, "front"), PodSpec("web", 1, "web")], size=1) as one:
        one.publish("web", "web", ips=["10.96.0.50", "fd00:10:96::50"])
        assert not answers(one, FIRST)
        one.server.put(dns_service(FIRST))
        eventually(lambda: answers(one, FIRST), "an address that appears is answered")
        with asking(one, FIRST) as old:
            one.server.put(dns_service(SECOND))
            eventually(lambda: answers(one, SECOND), "so is the next one")
        asked, lost = old
        assert asked >= 20 and lost == 0, "containers that were started with the old address lose nothing"
        with asking(one, SECOND) as new:
            one.publish("taker", "web", ips=[FIRST], port=53)
            eventually(lambda: one.ask("front", FIRST, 53, "UDP")[0].name == "web", "another service has the old address now")
            eventually(lambda: FIRST not in on_node(one.lab, "ip", "-4", "addr", "show", "lo"), "and we have not")
        assert new[1] == 0
        assert answers(one, SECOND)


def test_the_own_node_object_says_otherwise_or_goes(lab: LabFactory, tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("front", 1, "front"), PodSpec("web", 1, "web")], size=1) as one:
        one.server.put(node_of("n1", 5))
        eventually(lambda: any("spec.podCIDRs says 10.244.5.0/24" in text for text in one.problems("n1")), "the change is told")
        assert one.status("n1")["ready"]
        assert add(one, "late").startswith("10.244.1."), "and not obeyed"
        one.server.delete("Node", "", "n1")
        eventually(lambda: any("removed or renamed" in text for text in one.problems("n1")), "a node that goes is told")
        assert reaches(one, "web", "late"), "containers are served as before"

        one.server.put(node_of("n1", 5))
        eventually(lambda: not any("renamed" in text for text in one.problems("n1")), "it is back")
        kill_agent(one.lab)
        one.lab.start_agent()
        assert not any("podCIDRs" in text for text in one.problems("n1")), "a start takes the new ranges over"
        assert add(one, "new").startswith("10.244.5."), "for new containers"
        assert reaches(one, "web", "late", "new"), "those that are there keep their addresses"


def add(one: Cluster, name: str) -> str:
    """Attach one more pod; its IPv4 address."""
    spec = PodSpec(name, 1, name)
    one.server.put(pod_of(spec))
    one.lab.add(container_of(spec))
    return one.lab.address(name)


def reaches(one: Cluster, *names: str) -> bool:
    """Whether `front` reaches all of them, in both families."""
    found = [one.ask("front", address, 8080)[0] for name in names for address in one.lab.addresses(name)]
    return all(outcome.open for outcome in found)


def test_virtual_ips_of_a_range_that_came_later_are_reached_from_nodes(lab: LabFactory, tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("front", 1, "front"), PodSpec("web", 1, "web")], size=1) as one:
        ip = "10.112.0.50"
        one.publish("web", "web", ips=[ip])
        eventually(lambda: one.ask("front", ip, 80)[0].open, "a pod reaches it")
        assert "unreachable" in refused(one, ip), "a node without a way to the range does not"
        one.server.put(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "ServiceCIDR",
                "metadata": {"name": "more"},
                "spec": {"cidrs": ["10.112.0.0/16"]},
            }
        )
        eventually(lambda: refused(one, ip) == "", "with the range known, it does", 5)
        one.server.delete("ServiceCIDR", "", "more")
        eventually(
            lambda: "10.112.0.0" not in on_node(one.lab, "ip", "route", "show", "proto", "157"), "the way goes with the range"
        )
        assert "10.96.0.0/16" in on_node(one.lab, "ip", "route", "show", "proto", "157")


def refused(one: Cluster, ip: str) -> str:
    """Why the node's own programs cannot connect; empty if they can."""
    code = f"import socket\nsocket.create_connection(('{ip}', 80), 3)"
    return one.lab.exec("n1", [sys.executable, "-c", code]).stderr.strip()
