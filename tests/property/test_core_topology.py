"""Topology: the endpoints a node uses are those kube-proxy would, for any mix of conditions and hints."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from fairway_core.endpoints import Backend
from fairway_core.topology import Location, chosen

PLACES = ("here", "there", "")
ZONES = ("a", "b", "")


def naive(endpoints: Sequence[Backend], node: str, zone: str, local: bool) -> list[Backend]:
    """Step by step as in kube-proxy 1.33 (CategorizeEndpoints and topologyModeFromHints): flags over one walk, then filters."""
    if local:
        near = [e for e in endpoints if e.node_name == node]
        ready = [e for e in near if e.ready]
        return ready if ready else [e for e in near if e.serving and e.terminating]
    node_hints = zone_hints = True
    for_node = for_zone = False
    for endpoint in endpoints:
        if not endpoint.ready:
            continue
        if not endpoint.for_nodes:
            node_hints = False
        elif node in endpoint.for_nodes:
            for_node = True
        if not endpoint.for_zones:
            zone_hints = False
        elif zone in endpoint.for_zones:
            for_zone = True
    mode = "node" if node_hints and for_node else "zone" if zone_hints and for_zone else ""
    found = []
    for endpoint in endpoints:
        fits = mode == "" or (mode == "node" and node in endpoint.for_nodes) or (mode == "zone" and zone in endpoint.for_zones)
        if endpoint.ready and fits:
            found.append(endpoint)
    return found if found else [e for e in endpoints if e.serving and e.terminating]


def hints(names: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Mostly one, so that "all have one" happens."""
    named = [name for name in names if name]
    return st.sampled_from([*((name,) for name in named), *((name,) for name in named), (), tuple(named)])


def backends() -> st.SearchStrategy[list[Backend]]:
    states = st.sampled_from(
        [(True, True, False), (True, True, False), (False, False, False), (False, True, True), (False, False, True)]
    )
    one = st.builds(
        lambda number, state, node, zones, nodes: Backend(
            f"10.0.0.{number}", 80, *state, node_name=node, for_zones=zones, for_nodes=nodes
        ),
        st.integers(1, 9),
        states,
        st.sampled_from(PLACES),
        hints(ZONES),
        hints(PLACES),
    )
    return st.lists(one, max_size=6, unique_by=lambda backend: backend.ip).map(sorted)


@settings(max_examples=400)
@given(backends(), st.sampled_from(ZONES), st.booleans())
def test_choice_is_that_of_a_naive_selection(candidates: list[Backend], zone: str, local: bool) -> None:
    found = chosen(candidates, Location("here", zone), local)
    assert found == naive(candidates, "here", zone, local)
    if not local:
        assert bool(found) == any(b.ready or (b.serving and b.terminating) for b in candidates), "hints never cut a service off"


def test_hints_are_a_preference() -> None:
    a, b = Backend("10.0.0.1", 80, for_zones=("a",)), Backend("10.0.0.2", 80, for_zones=("b",))
    free = Backend("10.0.0.3", 80)
    assert chosen([a, b], Location("n", "a"), False) == [a]
    assert chosen([a, b], Location("n", "c"), False) == [a, b], "no zone fits"
    assert chosen([a, b, free], Location("n", "a"), False) == [a, b, free], "one lacks a hint"
    near = Backend("10.0.0.4", 80, for_zones=("b",), for_nodes=("n",))
    far = Backend("10.0.0.5", 80, for_zones=("a",), for_nodes=("m",))
    assert chosen([near, far], Location("n", "a"), False) == [near], "the node comes before the zone"
    assert chosen([near, far], Location("o", "a"), False) == [far], "no node fits: the zone"
