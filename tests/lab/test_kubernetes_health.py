"""kube-proxy's health port and the healthCheckNodePorts of services, asked from outside two nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import LINK, Cluster, PodSpec, cluster, node_of
from tests.lab.system import eventually

from fairway_kernel import netns
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root
WEB = ["10.96.0.60", "fd00:10:96::60"]
PORT, OTHER = 30990, 30991
AUTOSCALER = {"key": "ToBeDeletedByClusterAutoscaler", "value": "1700000000", "effect": "NoSchedule"}


def get(two: Cluster, number: int, port: int, path: str = "/healthz", family: int = 4) -> tuple[int, dict[str, Any], str]:
    """Status (0: refused), body and weight, as a load balancer outside gets them from node `number`."""
    host = LINK[family].format(number)
    url = f"http://{f'[{host}]' if family == 6 else host}:{port}{path}"
    shape = "%{stderr}%{http_code} %header{x-load-balancing-endpoint-weight}"
    done = two.lab.exec("client", ["curl", "-gs", "-m", "3", "-w", shape, url])
    status, _, weight = done.stderr.partition(" ")
    return int(status or 0), json.loads(done.stdout or "{}"), weight.strip()


@contextmanager
def occupied(path: str, port: int) -> Iterator[None]:
    """Another program's socket on the node."""
    import socket

    other = netns.run_in(path, lambda: socket.create_server(("0.0.0.0", port)))
    with other:
        yield


def test_load_balancers_are_answered(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    with cluster(lab, tmp_path, [PodSpec("a", 1, "front"), PodSpec("b-web", 2, "web")]) as two:
        for number in (1, 2):
            status, body, _ = get(two, number, 10256)
            assert (status, body["nodeEligible"]) == (200, True)
            assert body["lastUpdated"] <= body["currentTime"]
        services(two)
        collision(two)
        leaving(two)


def services(two: Cluster) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    two.publish("web", "b-web", ips=WEB, healthCheckNodePort=PORT, nodePort=30080, **local)
    eventually(lambda: get(two, 2, PORT, "/")[0] == 200, "the node with the endpoint answers")
    for family in (4, 6):
        status, body, weight = get(two, 2, PORT, "/any", family)
        wanted = {"service": {"namespace": "shop", "name": "web"}, "localEndpoints": 1, "serviceProxyHealthy": True}
        assert (status, body, weight) == (200, wanted, "1")
    status, body, weight = get(two, 1, PORT)
    assert (status, body["localEndpoints"], weight) == (503, 0, "0"), "no endpoint here: send it elsewhere"
    # The endpoint terminates: it still serves what it has, but new connections shall go elsewhere.
    draining = {"conditions": {"ready": False, "serving": True, "terminating": True}}
    two.server.put(*two.slices("web", "b-web", **draining))
    eventually(lambda: get(two, 2, PORT)[0] == 503, "a terminating endpoint does not count")
    two.publish("web", "b-web", ips=WEB, healthCheckNodePort=OTHER, nodePort=30080, **local)
    eventually(lambda: get(two, 2, OTHER)[0] == 200 and get(two, 2, PORT)[0] == 0, "the port moves")


def collision(two: Cluster) -> None:
    with occupied(two.lab.netns("n1"), PORT):
        two.publish("web", "b-web", ips=WEB, healthCheckNodePort=PORT, type="LoadBalancer", externalTrafficPolicy="Local")
        eventually(lambda: any("cannot listen on port" in text for text in two.problems("n1")), "a taken port is told")
        assert two.status("n1")["ready"]
        eventually(lambda: get(two, 2, PORT)[0] == 200, "the other node answers")
    eventually(lambda: get(two, 1, PORT)[0] == 503 and not two.problems("n1"), "it is had once it is free", 15)
    two.server.delete("Service", "shop", "web")
    eventually(lambda: get(two, 1, PORT)[0] == 0 and get(two, 2, PORT)[0] == 0, "the port closes with its service")


def leaving(two: Cluster) -> None:
    going = node_of("n2", 2)
    going["spec"]["taints"] = [AUTOSCALER]
    two.server.put(going)
    eventually(lambda: get(two, 2, 10256)[0] == 503, "a node that is about to go takes no new connections")
    assert get(two, 2, 10256, "/livez")[0] == 200, "but its proxy lives"
    assert get(two, 1, 10256)[0] == 200
