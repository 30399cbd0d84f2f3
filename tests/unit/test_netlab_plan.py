"""Plans: names, addresses, CNI input and wiring follow from the topology alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fairway_core.errors import UserError
from fairway_netlab.plan import LabPlan, cni_config, cni_environment, merged, plan_lab
from fairway_netlab.topology import topology_from

ROOT = Path("/run/fairway-lab")


def plan(**parts: Any) -> LabPlan:
    base: dict[str, Any] = {
        "name": "shop",
        "nodes": [{"name": "n1"}, {"name": "n2", "podCIDRs": ["10.244.1.0/24"], "mode": "routed"}],
        "containers": [
            {"name": "web-1", "namespace": "shop", "labels": {"tier": "front", "app": "web"}},
            {"name": "web-1", "namespace": "test", "node": "n2"},
        ],
        "hosts": [{"name": "ext"}],
        "links": [{"nodes": ["n1", "n2"], "hosts": ["ext"]}],
    }
    return plan_lab(topology_from({**base, **parts}), ROOT)


def test_names_of_namespaces() -> None:
    assert plan().namespaces == (
        "fwlab-shop._link0",
        "fwlab-shop.n1",
        "fwlab-shop.n2",
        "fwlab-shop.shop.web-1",
        "fwlab-shop.test.web-1",
        "fwlab-shop.ext",
    )


def test_no_two_parts_share_a_namespace_however_they_are_called() -> None:
    names = ["a", "a-b", "b", "link", "0"]
    containers = [{"name": name, "namespace": space} for name in names for space in names]
    found = plan(nodes=[{"name": name} for name in names[:1]], containers=containers, links=[], hosts=[]).namespaces
    assert len(set(found)) == len(found)


def test_a_container_is_found_by_name_if_that_is_clear() -> None:
    lab = plan()
    assert lab.station("shop/web-1").namespace == "shop"
    assert lab.station("ext").node == ""
    with pytest.raises(UserError, match="not clear: shop/web-1, test/web-1"):
        lab.station("web-1")
    with pytest.raises(UserError, match="no container 'db'"):
        lab.station("db")
    with pytest.raises(UserError, match="no node ''; it has n1, n2"):
        lab.node("")


def test_the_agent_s_configuration_and_what_the_topology_puts_over_it() -> None:
    over = {"dns": {"listen": ["169.254.20.11"]}, "log": {"level": "debug"}}
    lab = plan(nodes=[{"name": "n1", "config": over}], links=[], hosts=[], containers=[])
    assert lab.node("").config == {
        "node": {"name": "n1", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]},
        "stateDir": "/run/fairway-lab/shop/nodes/n1/state",
        "runDir": "/run/fairway-lab/shop/nodes/n1/run",
        "cluster": {"domain": "cluster.local", "serviceCIDRs": ["10.96.0.0/16", "fd00:10:96::/112"]},
        "dns": {"listen": ["169.254.20.11"], "upstreams": []},
        "log": {"level": "debug"},
    }


def test_merging_replaces_all_but_mappings() -> None:
    assert merged({"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"c": []}, "d": {"e": 3}}) == {"a": {"b": 1, "c": []}, "d": {"e": 3}}


def test_cni_input_names_the_container_and_its_agent() -> None:
    lab = plan()
    station = lab.station("shop/web-1")
    environment = cni_environment(station, "ADD", "/run/netns/x", "/opt/cni/bin")
    assert environment["CNI_ARGS"] == (
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;FAIRWAY_LABELS=app=web,tier=front"
    )
    assert "FAIRWAY_LABELS" not in cni_environment(lab.station("test/web-1"), "ADD", "", "")["CNI_ARGS"]
    assert cni_config(lab.node("n2")) == {
        "cniVersion": "1.0.0",
        "name": "fairway",
        "type": "fairway",
        "agentSocket": "/run/fairway-lab/shop/nodes/n2/run/agent.sock",
        "spoolDir": "/run/fairway-lab/shop/nodes/n2/state/spool",
        "mode": "routed",
    }


def test_resolv_conf_is_what_kubelet_writes() -> None:
    assert plan().station("shop/web-1").resolv_conf == (
        "nameserver 169.254.20.10\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    )


def test_wiring_of_a_link() -> None:
    wiring = dict(plan().wiring)
    assert wiring["fwlab-shop._link0"].splitlines()[:4] == [
        "link add br0 type bridge",
        "link set br0 up",
        "link add p0 type veth peer name net0 netns fwlab-shop.n1",
        "link set p0 master br0 up",
    ]
    assert wiring["fwlab-shop.n1"].splitlines() == [
        "link set lo up",
        "link set net0 up",
        "addr add 192.168.100.1/24 dev net0",
        "addr add fd00:1ab::1/64 dev net0 nodad",
        "route replace 10.244.1.0/24 via 192.168.100.2",
    ]
    assert "route replace default via 192.168.100.1" in wiring["fwlab-shop.ext"].splitlines()
    assert plan().addresses == {"ext": ("192.168.100.3", "fd00:1ab::3")}


def test_a_subnet_too_small_is_refused() -> None:
    with pytest.raises(UserError, match=r"10\.0\.0\.0/30 is too small for 3 members"):
        plan(links=[{"nodes": ["n1", "n2"], "hosts": ["ext"], "subnets": ["10.0.0.0/30"]}])


def test_a_path_no_unix_socket_can_have_is_refused() -> None:
    with pytest.raises(UserError, match="too long for a unix socket"):
        plan_lab(topology_from({"name": "x", "nodes": [{"name": "n"}]}), ROOT / ("d" * 100))
