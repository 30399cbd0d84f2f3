"""Pod ranges of nodes: nobody acts on a claim that overlaps another, whatever nodes say."""

from __future__ import annotations

from ipaddress import ip_network
from itertools import combinations, permutations

from hypothesis import given
from hypothesis import strategies as st

from fairway_core.model import Meta, Node
from fairway_core.peers import Peer, claims

OWN, SERVICES = ("10.0.0.0/26",), ("10.0.1.0/28",)


def cidrs() -> st.SearchStrategy[str]:
    """Few addresses, so that ranges often meet."""
    return st.builds(
        lambda number, bits: str(ip_network((0x0A000000 + number * 16, bits), strict=False)),
        st.integers(0, 40),
        st.integers(22, 28),
    )


def nodes() -> st.SearchStrategy[list[Node]]:
    one = st.builds(
        lambda name, ranges, ips, age: Node(Meta(name), ips, tuple(ranges), ips, created=age),
        st.sampled_from([f"n{i}" for i in range(6)]),
        st.lists(cidrs(), max_size=2),
        st.sampled_from([(), ("10.0.0.200",), ("192.0.2.1",), ("10.0.2.9", "fd00::1")]),
        st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]),
    )
    return st.lists(one, max_size=6, unique_by=lambda node: node.meta.name)


def naive(given: list[Node]) -> list[tuple[str, str]]:
    """Node and range of each accepted claim: everything compared with everything."""
    blocked = [*OWN, *SERVICES, *(ip for node in given for ip in node.internal)]
    accepted: list[tuple[str, str]] = []
    for node in sorted(given, key=lambda item: (item.created, item.meta.name)):
        for cidr in node.pod_cidrs if node.meta.name != "n0" else ():
            others = [*blocked, *(taken for _, taken in accepted)]
            same = [ip_network(text) for text in others if (":" in text) == (":" in cidr)]
            if not any(ip_network(cidr).overlaps(network) for network in same):
                accepted.append((node.meta.name, cidr))
    return sorted(accepted)


@given(nodes())
def test_accepted_ranges_are_those_of_a_naive_comparison(given: list[Node]) -> None:
    found = claims(given, "n0", OWN, SERVICES)
    assert sorted((peer.node, peer.cidr) for peer in found.peers) == naive(given)
    for one, other in combinations(found.cidrs, 2):
        assert not ip_network(one).overlaps(ip_network(other))
    offered = sum(len(node.pod_cidrs) for node in given if node.meta.name != "n0")
    assert len(found.peers) + len(found.faults) == offered, "each claim is obeyed or named"


@given(nodes().filter(lambda some: len(some) < 5))
def test_the_order_of_arrival_does_not_matter(given: list[Node]) -> None:
    assert len({claims(list(order), "n0", OWN, SERVICES) for order in permutations(given)}) == 1


def test_an_older_node_keeps_its_range_and_each_family_has_its_gateway() -> None:
    old = Node(Meta("z"), (), ("10.1.0.0/24", "fd01::/64"), ("192.0.2.7", "fd09::7"), created="2026-01-01T00:00:00Z")
    thief = Node(Meta("a"), (), ("10.1.0.0/25",), ("192.0.2.8",), created="2026-02-01T00:00:00Z")
    found = claims([thief, old], "me", ("10.0.0.0/24",))
    assert found.peers == (Peer("10.1.0.0/24", "192.0.2.7", "z"), Peer("fd01::/64", "fd09::7", "z"))
    assert found.faults == (("a", "its pod range 10.1.0.0/25 overlaps 10.1.0.0/24 of node z and is not used"),)
