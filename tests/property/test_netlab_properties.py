"""Topologies: any text is either understood or refused; what is understood has a plan that depends on it alone."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fairway_core.errors import UserError
from fairway_netlab.plan import plan_lab
from fairway_netlab.topology import Topology, parse_topology, topology_from

NAMES = st.sampled_from(["a", "b", "a-b", "n", "host"])
SCALARS = st.none() | st.booleans() | st.integers(-5, 70000) | st.text(max_size=5) | NAMES
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
PARTS = st.lists(
    st.dictionaries(st.sampled_from(["name", "node", "nodes", "hosts", "namespace", "podCIDRs", "labels"]), VALUES, max_size=3),
    max_size=3,
)
TOPOLOGIES = st.fixed_dictionaries(
    {"name": NAMES}, optional={"nodes": PARTS, "containers": PARTS, "hosts": PARTS, "links": PARTS, "manifests": VALUES}
)
GOOD = st.fixed_dictionaries(
    {
        "name": NAMES,
        "nodes": st.just([{"name": "one"}]),
        "containers": st.lists(
            st.fixed_dictionaries({"name": NAMES, "namespace": NAMES}), unique_by=lambda c: (c["namespace"], c["name"])
        ),
    }
)


@given(st.text() | st.text(alphabet="name: -{}[]\n\"'&*!|>#") | st.binary().map(lambda data: data.decode("latin-1")))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        assert isinstance(parse_topology("x.yaml", text), Topology)
    except UserError:
        return


@given(TOPOLOGIES)
def test_no_mapping_breaks_the_check(value: dict[str, object]) -> None:
    try:
        topology = topology_from(value)
    except UserError:
        return
    assert topology_from(topology.model_dump()) == topology


@given(GOOD)
def test_a_plan_depends_on_the_topology_alone_and_names_each_part_once(value: dict[str, object]) -> None:
    plan = plan_lab(topology_from(value), Path("/run/x"))
    assert plan == plan_lab(topology_from(value), Path("/run/x"))
    assert len(set(plan.namespaces)) == len(plan.namespaces)
    assert len({station.container_id for station in plan.stations}) == len(plan.stations)
    assert len({station.directory for station in plan.stations}) == len(plan.stations)
