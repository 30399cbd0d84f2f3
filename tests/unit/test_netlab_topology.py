"""Topologies: what is refused, and where the message points."""

from __future__ import annotations

import pytest

from fairway_core.errors import UserError
from fairway_netlab.topology import parse_topology, topology_from

SHOP = """
name: shop
nodes:
  - {name: n1, podCIDRs: [10.244.0.0/24, "fd00:10:244::/64"]}
containers:
  - {name: web-1, namespace: shop, node: n1, labels: {app: web}, serve: [{protocol: TCP, port: 8080}]}
hosts:
  - name: ext
links:
  - {nodes: [n1], hosts: [ext]}
"""


def test_a_topology_is_read_with_its_defaults() -> None:
    topology = parse_topology("shop.yaml", SHOP)
    assert topology.nodes[0].mode == "bridge"
    assert topology.containers[0].serve[0].port == 8080
    assert topology == topology_from(topology.model_dump())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: shop\n", "name: Shop\n", "shop.yaml:2:1: name: "),
        ("namespace: shop", "namepsace: shop", "shop.yaml:6:19: containers[0].namepsace: unknown field"),
        ("node: n1", "node: n2", "shop.yaml:6:36: containers[0].node: there is no node n2"),
        ("port: 8080", "port: 80800", "containers[0].serve[0].port: "),
        ("port: 8080", 'port: "8080"', "containers[0].serve[0].port: "),
        ("app: web", 'app: "a,b"', "containers[0].labels: app=a,b is not a label"),
        ("10.244.0.0/24", "10.244.0.1/24", "nodes[0].podCIDRs[0]: "),
        ('"fd00:10:244::/64"', "10.244.0.128/25", "10.244.0.128/25 overlaps 10.244.0.0/24 of n1"),
        ("name: ext", "name: n1", "hosts[0].name: n1 is there already"),
        ("nodes: [n1]", "nodes: [n7]", "shop.yaml:10:14: links[0].nodes[0]: there is no node n7"),
        ("hosts: [ext]", "hosts: []", "hosts[0]: ext is on no link"),
        ("hosts: [ext]", "hosts: [ext], subnets: [10.244.0.0/16]", "10.244.0.0/16 overlaps 10.244.0.0/24 of n1"),
        ("  - name: ext", "  - name: [", "shop.yaml:"),
    ],
)
def test_a_fault_is_named_with_its_place(old: str, new: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_topology("shop.yaml", SHOP.replace(old, new, 1))
    assert message in str(caught.value)


def test_all_faults_are_reported_at_once() -> None:
    text = SHOP.replace("port: 8080", "port: 0").replace("name: shop", "name: SHOP", 1)
    with pytest.raises(UserError) as caught:
        parse_topology("shop.yaml", text)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("text", ["", "---\n---\n", "name: a\n---\nname: b\n", "- 1\n", "just text"])
def test_one_topology_per_file(text: str) -> None:
    with pytest.raises(UserError):
        parse_topology("shop.yaml", text)


def test_the_same_name_in_two_namespaces_is_fine_and_in_one_is_not() -> None:
    two = {"name": "x", "nodes": [{"name": "n"}], "containers": [{"name": "a"}, {"name": "a", "namespace": "b"}]}
    assert len(topology_from(two).containers) == 2
    two["containers"] = [{"name": "a"}, {"name": "a", "namespace": "default"}]
    with pytest.raises(UserError, match="default/a is there already"):
        topology_from(two)


def test_containers_need_a_node() -> None:
    with pytest.raises(UserError, match="there is no node"):
        topology_from({"name": "x", "containers": [{"name": "a"}]})
