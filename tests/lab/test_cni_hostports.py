"""Ports of the node that lead to containers, with the whole agent."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target

pytestmark = pytest.mark.needs_root


def map_ports(lab: Lab, name: str, *ports: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Attach a container of the topology anew, with ports."""
    call(lab, name, "DEL", {})
    return call(lab, name, "ADD", {"portMappings": list(ports)}, **more)


def answered(lab: Lab, source: str, ip: str, port: int, protocol: Any = "TCP") -> str:
    """Who answers there, or the state of the attempt."""
    (outcome,) = lab.probe(source, [Target(ip, port, protocol)], timeout=0.7)
    return outcome.name if outcome.open else outcome.state


def from_node(lab: Lab, ip: str, port: int) -> str:
    """What a process of the node itself is answered over TCP."""

    def ask() -> str:
        with closing(socket.create_connection((ip, port), 2)) as connection:
            return connection.recv(200).decode().split()[0]

    return netns.run_in(lab.netns("n1"), ask)


def both(port: int, inside: int = 8080, **more: Any) -> list[dict[str, Any]]:
    return [{"HostPort": port, "ContainerPort": inside, "Protocol": protocol, **more} for protocol in ("tcp", "udp")]


def topology(mode: str) -> dict[str, Any]:
    containers = [system.container("web", port=8080, app="web"), system.container("other", port=8080), system.container("cli")]
    links = {"hosts": [{"name": "outside"}], "links": [{"nodes": ["n1"], "hosts": ["outside"]}]}
    return {**system.topology(mode, containers), **links}


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_ports_work_from_everywhere_and_policy_sees_the_containers_port(lab: Callable[..., Lab], mode: str) -> None:
    one = lab(topology(mode))
    node = ("192.168.100.1", "fd00:1ab::1")
    assert answered(one, "outside", node[0], 9080, "UDP") != "web", "a flow that the kernel remembers"
    map_ports(one, "web", *both(9080))
    for ip in node:
        for source in ("outside", "cli", "web"):
            for protocol in ("TCP", "UDP"):
                assert answered(one, source, ip, 9080, protocol) == "web", (source, ip, protocol)
        assert from_node(one, ip, 9080) == "web"
    assert from_node(one, "127.0.0.1", 9080) == "web"
    assert answered(one, "cli", "127.0.0.1", 9080) == "refused"
    one.apply([system.policy("closed", "shop", policyTypes=["Ingress"], ingress=[{"ports": [{"port": 9080}]}])])
    assert answered(one, "outside", node[0], 9080) == "refused", "policy sees 8080"
    one.apply([system.policy("closed", "shop", policyTypes=["Ingress"], ingress=[{"ports": [{"port": 8080}]}])])
    assert answered(one, "outside", node[0], 9080) == "web"
    assert call(one, "web", "CHECK", {}, prevResult={"ips": []}) == {}
    call(one, "web", "DEL", {})
    assert answered(one, "outside", node[0], 9080) == "refused"
    assert "9080" not in system.on_node(one, "nft", "list", "table", "inet", "fairway")


def test_one_address_conflicts_and_a_new_agent(lab: Callable[..., Lab]) -> None:
    one = lab(topology("bridge"))
    map_ports(one, "web", *both(9080, hostIP="192.168.100.1"), {"hostPort": 9081, "containerPort": 8080})
    assert answered(one, "outside", "192.168.100.1", 9080, "UDP") == "web"
    assert answered(one, "outside", "fd00:1ab::1", 9080) == "refused"
    with pytest.raises(ConnectionRefusedError):
        from_node(one, "127.0.0.1", 9080)
    for clash in ({"hostPort": 9080}, {"hostPort": 9081, "hostIP": "192.168.100.1"}):
        refusal = map_ports(one, "other", {**clash, "containerPort": 8080})
        assert (refusal["code"], "web" in refusal["details"] or "fairway" in refusal["details"]) == (105, True), refusal
    system.kill_agent(one)
    one.start_agent()
    assert map_ports(one, "other", {"hostPort": 9080, "containerPort": 8080})["code"] == 105, "the new agent knows it"
    assert answered(one, "outside", "192.168.100.1", 9081) == "web"
    assert "code" not in map_ports(one, "other", *both(9080, hostIP="fd00:1ab::1"))
    assert answered(one, "outside", "fd00:1ab::1", 9080) == "other"
    call(one, "web", "DEL", {})
    assert "code" not in map_ports(one, "other", *both(9080))
    assert answered(one, "outside", "192.168.100.1", 9080, "UDP") == "other", "the flow to the old one is forgotten"
