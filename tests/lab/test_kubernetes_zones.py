"""Three nodes in two zones: who is preferred, what a second hop looks like, and what a restart of an agent does to the ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import LINK, READY, Cluster, PodSpec, cluster, node_of, service_of
from tests.lab.system import eventually

from fairway_netlab.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]
ZONE = "topology.kubernetes.io/zone"
WEB, NEAR = ["10.96.0.70", "fd00:10:96::70"], ["10.96.0.71", "fd00:10:96::71"]
PODS = [PodSpec("front", 1, "front"), *(PodSpec(f"web-{number}", number, "web") for number in (1, 2, 3))]
TRIES = 24
# The first two nodes are in zone a.
ZONES = {"web-1": "a", "web-2": "a", "web-3": "b"}


def hinted(three: Cluster, service: str, unready: str = "") -> list[dict[str, Any]]:
    """The slices of `service` with the hints that the controller writes for trafficDistribution."""
    made = []
    for piece in three.slices(service, *ZONES):
        for endpoint, (name, zone) in zip(piece["endpoints"], ZONES.items(), strict=True):
            endpoint["conditions"] = {**READY, "ready": name != unready, "serving": name != unready}
            if name != unready:
                endpoint["hints"] = {"forZones": [{"name": zone}]}
        made.append(piece)
    return made


def answered(three: Cluster, source: str, address: str) -> set[str]:
    return {outcome.name for outcome in three.ask(source, address, 80, count=TRIES)}


def test_zones_hops_and_restarts(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    with cluster(lab, tmp_path, PODS, size=3) as three:
        for number, zone in ((1, "a"), (2, "a"), (3, "b")):
            three.server.put(node_of(f"n{number}", number, labels={ZONE: zone}))
        zones(three)
        hops(three)
        restart(three)


def zones(three: Cluster) -> None:
    three.publish("web", *ZONES, ips=WEB)
    assert answered(three, "front", WEB[0]) == set(ZONES), "without hints all of them"
    three.server.put(*hinted(three, "web"))
    for address in WEB:
        eventually(lambda address=address: answered(three, "front", address) == {"web-1", "web-2"}, "its own zone")
        eventually(lambda address=address: answered(three, "web-3", address) == {"web-3"}, "the other zone for the others")
    three.server.put(*hinted(three, "web", unready="web-3"))
    eventually(lambda: answered(three, "web-3", WEB[0]) == {"web-1", "web-2"}, "no endpoint in the zone: all that are ready")
    three.server.put(node_of("n3", 3, labels={ZONE: "c"}), *hinted(three, "web"))
    eventually(lambda: answered(three, "web-3", WEB[0]) == set(ZONES), "a node in a zone without endpoints uses all")


def hops(three: Cluster) -> None:
    """A node port on a node without endpoints: by way of that node, which answers come back through."""
    three.publish("near", "web-3", ips=NEAR, nodePort=30090)
    for family in (4, 6):
        [outcome] = three.ask("client", LINK[family].format(1), 30090)
        assert (outcome.name, outcome.seen) == ("web-3", LINK[family].format(1))
        [outcome] = three.ask("client", LINK[family].format(3), 30090)
        assert (outcome.name, outcome.seen) == ("web-3", LINK[family].format(5))
    three.server.put(service_of("near", ips=NEAR, nodePort=30090, internalTrafficPolicy="Local"))
    eventually(lambda: three.ask("front", NEAR[0], 80)[0].state == "timeout", "internal policy Local: nothing here")
    assert three.ask("web-3", NEAR[0], 80)[0].name == "web-3"


def restart(three: Cluster) -> None:
    """Ways to other nodes are there before, while and after the agent is away."""
    before, config = three.routes("n1"), str(three.lab.node("n1").config_file)
    found = three.lab.exec("n1", ["pgrep", "-f", f"^[^ ]*python[^ ]* -m fairway_cli.main agent --config {config}"], check=True)
    three.lab.exec("n1", ["kill", "-9", *found.stdout.split()], check=True)
    assert three.routes("n1") == before
    assert three.ask("front", three.lab.address("web-3"), 8080)[0].name == "web-3"
    three.lab.start_agent("n1")
    assert three.routes("n1") == before
    assert not three.problems("n1")
