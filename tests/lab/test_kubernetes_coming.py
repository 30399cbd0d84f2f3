"""Coming to a node that another plugin and kube-proxy have set up, and leaving it: what is theirs stays as it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.lab.cluster import Cluster, PodSpec, cluster, container_of, pod_of
from tests.lab.system import cni, kill_agent, on_node
from tests.lab.test_cni_others import foreign

from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root
MANUAL = Path(__file__).parents[2] / "docs" / "operations.md"
OLD_VIP = "10.97.0.77"
PODS = [PodSpec("old-1", 1, "old"), PodSpec("old-2", 1, "old")]
# The shape of kube-proxy's rules (iptables mode), with one Service for old-2.
KUBE_PROXY = """*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SVC-OLD - [0:0]
:KUBE-SEP-OLD - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-SERVICES -d {vip}/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-OLD
-A KUBE-SVC-OLD -j KUBE-SEP-OLD
-A KUBE-SEP-OLD -s {pod}/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-OLD -p tcp -m tcp -j DNAT --to-destination {pod}:8080
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
"""


def theirs(one: Cluster) -> str:
    """All rules of others, as they list them, without counters and dates."""
    return re.sub(r"^#.*\n|\[\d+:\d+\]", "", on_node(one.lab, "iptables-nft-save"), flags=re.M)


def leave(one: Cluster) -> None:
    """Stop the agent and do what the manual says to remove the rest."""
    kill_agent(one.lab)
    (script,) = re.findall(r"```sh cleanup\n(.*?)```", MANUAL.read_text(), re.S)
    on_node(one.lab, "bash", "-ec", script.replace("/run/fairway", one.lab.node().config["runDir"]))


def ours(one: Cluster) -> list[str]:
    """What of ours is on the node."""
    tables = re.findall(r"table \w+ fairway", on_node(one.lab, "nft", "list", "tables"))
    links = re.findall(r"^\d+: (fw[^:@]*)", on_node(one.lab, "ip", "-o", "link"), re.M)
    routes = [
        line for family in "46" for line in on_node(one.lab, "ip", f"-{family}", "route", "show", "proto", "157").splitlines()
    ]
    addresses = re.findall(r"\S+ scope .* lo:fairway|\S+ metric 157", on_node(one.lab, "ip", "-o", "addr", "show", "dev", "lo"))
    return [*tables, *links, *routes, *addresses]


def bridged(one: Cluster, name: str, directory: Path) -> str:
    """Move a container over to Debian's bridge plugin; its address."""
    assert cni(one.lab, one.lab.station(name), "DEL") == ""
    address_plugin = {"type": "host-local", "subnet": "10.77.0.0/24", "dataDir": str(directory)}
    config = {"cniVersion": "1.0.0", "name": "old", "type": "bridge", "bridge": "cni0", "isDefaultGateway": True, "ipMasq": True}
    result = foreign(one.lab, name, "ADD", {**config, "ipam": address_plugin})
    return str(result["ips"][0]["address"].partition("/")[0])


def works(one: Cluster, address: str) -> bool:
    """What the old plugin and kube-proxy promised to old-1."""
    [direct], [virtual] = one.ask("old-1", address, 8080), one.ask("old-1", OLD_VIP, 80)
    return (direct.name, virtual.name) == ("old-2", "old-2")


def test_coming_and_leaving_touches_nothing_of_others(lab: Callable[[dict[str, Any]], Lab], tmp_path: Path) -> None:
    # Routed: bridged wiring needs bridge-nf-call-iptables 0, and kube-proxy needs 1 for pods behind one bridge.
    with cluster(lab, tmp_path, PODS, size=1, modes=["routed"]) as one:
        _, address = (bridged(one, pod.name, tmp_path / "ipam") for pod in PODS)
        leave(one)
        assert ours(one) == [], "the clean-up leaves nothing of ours"
        on_node(
            one.lab, "bash", "-c", f"iptables-nft-restore --noflush <<'END'\n{KUBE_PROXY.format(vip=OLD_VIP, pod=address)}END"
        )
        before = theirs(one)
        assert "KUBE-SEP-OLD" in before and works(one, address)

        one.lab.start_agent()
        assert works(one, address), "pods of the other plugin keep working"
        one.server.put(pod_of(PodSpec("fresh", 1, "web")))
        one.lab.add(container_of(PodSpec("fresh", 1, "web")))
        one.publish("web", "fresh", ips=["10.96.0.50", "fd00:10:96::50"])
        for source, host, port, name in (
            ("fresh", address, 8080, "old-2"),
            ("old-1", one.lab.address("fresh"), 8080, "fresh"),
            ("old-1", "10.96.0.50", 80, "fresh"),
            ("fresh", OLD_VIP, 80, "old-2"),
        ):
            assert one.ask(source, host, port)[0].name == name, f"{source} to {host}"
        assert theirs(one) == before, "no rule of others was changed"

        one.lab.remove("fresh")
        leave(one)
        assert ours(one) == []
        assert theirs(one) == before
        assert works(one, address)
