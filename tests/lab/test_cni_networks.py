"""What a network's configuration and a runtime's wishes come to: source addresses, MTU, names, labels, with the whole agent."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.probe import Target
from fairway_netlab.session import LabSession

pytestmark = pytest.mark.needs_root

OUTSIDE = {"hosts": [{"name": "outside"}], "links": [{"nodes": ["n1"], "hosts": ["outside"]}]}
NODE = {4: "192.168.100.1", 6: "fd00:1ab::1"}


def seen_from(lab: Lab, source: str, own: str, target: str) -> str:
    """The sender that a host outside sees when `source` sends a datagram from its address `own`."""
    family = socket.AF_INET6 if ":" in target else socket.AF_INET

    def opened(address: str, path: str) -> socket.socket:
        made = netns.run_in(path, lambda: socket.socket(family, socket.SOCK_DGRAM))
        made.bind((address, 0))
        made.settimeout(5)
        return made

    with closing(opened(target, lab.netns("outside"))) as listener, closing(opened(own, lab.netns(source))) as sender:
        sender.sendto(b"x", listener.getsockname()[:2])
        return str(listener.recvfrom(10)[1][0])


def plain(result: dict[str, Any]) -> list[str]:
    assert "ips" in result, result
    return [item["address"].split("/")[0] for item in result["ips"]]


def test_masquerade_by_network_and_by_destination(lab: Callable[..., Lab]) -> None:
    more = {"config": {"node": {"nonMasqueradeCIDRs": ["fd00:1ab::/64"]}}}
    one = lab({**system.topology("bridge", [system.container("a"), system.container("b")], **more), **OUTSIDE})
    target4, target6 = one.addresses("outside")
    own4, own6 = one.address("a"), one.address("a", 6)
    assert seen_from(one, "a", own4, target4) == NODE[4]
    assert seen_from(one, "a", own6, target6) == own6, "not to this destination"
    call(one, "b", "DEL", {})
    own4, own6 = plain(call(one, "b", "ADD", {}, ipMasq=False))
    assert [seen_from(one, "b", own4, target4), seen_from(one, "b", own6, target6)] == [own4, own6], "not from this network"
    call(one, "b", "DEL", {})
    own4, _ = plain(call(one, "b", "ADD", {}, ipMasq=True))
    assert seen_from(one, "b", own4, target4) == NODE[4]


def test_mtu_is_the_default_routes_unless_the_network_says_otherwise(lab: Callable[..., Lab]) -> None:
    one = lab({**system.topology("bridge", [system.container("a")]), **OUTSIDE})
    (device,) = [
        line.split()[0].split("@")[0] for line in system.on_node(one, "ip", "-br", "addr").splitlines() if NODE[4] in line
    ]
    system.on_node(one, "ip", "link", "set", device, "mtu", "1440")
    system.on_node(one, "ip", "route", "add", "default", "dev", device)

    def mtu(**conf: Any) -> int:
        call(one, "a", "DEL", {})
        result = call(one, "a", "ADD", {}, cniVersion="1.1.0", **conf)
        (inside,) = [item for item in result["interfaces"] if item.get("sandbox")]
        shown = one.exec("a", ["ip", "-o", "link", "show", "eth0"], check=True).stdout
        assert f"mtu {inside['mtu']} " in shown
        return int(inside["mtu"])

    # The node's choice is remembered for a second.
    system.eventually(lambda: mtu() == 1440, "the MTU of the default route's device")
    assert mtu(mtu=1300) == 1300


@pytest.fixture(scope="module")
def one() -> Iterator[Lab]:
    """A node on which `web` waits to be attached; each test leaves it so."""
    with LabSession() as session:
        # A name of its own: other sessions of this process count from one too.
        containers = [system.container("web", port=8080), system.container("cli")]
        made = session.up({"name": f"networks{os.getpid()}", **system.topology("bridge", containers)})
        call(made, "web", "DEL", {})
        yield made


def test_aliases_labels_and_annotations_become_names_and_the_pod(one: Lab) -> None:
    runtime = {"aliases": {"fairway": ["DB"]}, "io.kubernetes.cri.pod-annotations": {"team": "red"}}
    args = {"cni": {"labels": [{"key": "app", "value": "web"}]}}
    ip, _ = plain(call(one, "web", "ADD", runtime, args=args))
    (pod,) = [item for item in system.objects(one, "pods") if item["metadata"]["name"] == "web"]
    assert (pod["metadata"]["labels"], pod["metadata"]["annotations"]) == ({"app": "web"}, {"team": "red"})
    assert ip in one.exec("cli", ["getent", "ahostsv4", "db.shop.pod.cluster.local"], check=True).stdout
    one.apply([system.policy("closed", "shop", podSelector={"matchLabels": {"app": "web"}})])
    (outcome,) = one.probe("cli", [Target(ip, 8080)], timeout=0.5)
    assert outcome.state == "refused", "policy knows the label"
    call(one, "web", "DEL", {})
    assert not one.exec("cli", ["getent", "ahostsv4", "db.shop.pod.cluster.local"]).stdout


def test_host_ports_of_all_protocols_are_in_the_kernel(one: Lab) -> None:
    ports = [{"hostPort": 9000 + n, "containerPort": 80, "protocol": name} for n, name in enumerate(("tcp", "UDP", "sctp"))]
    (ip, _) = plain(call(one, "web", "ADD", {"portMappings": [*ports, {"hostPort": 0, "containerPort": 1}]}))
    shown = "".join(system.on_node(one, "nft", "list", "map", "inet", "fairway", "hostport_any4").split())
    for number, name in enumerate(("tcp", "udp", "sctp")):
        assert f"{name}.{9000 + number}:{ip}.80" in shown.replace("132.", "sctp."), shown
    call(one, "web", "DEL", {})
    assert ip not in system.on_node(one, "nft", "list", "map", "inet", "fairway", "hostport_any4")
