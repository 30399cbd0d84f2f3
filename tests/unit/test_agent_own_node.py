"""What this node's own object says otherwise is told and not obeyed."""

from __future__ import annotations

import logging

from fairway_agent.own_node import OwnNode
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.model import Meta, Node, Pod
from fairway_core.world import Change, World

OWN = ("10.0.0.0/24", "fd00::/64")


class Rig:
    def __init__(self) -> None:
        self.problems = Problems(logging.getLogger("test"))
        self.own = OwnNode("me", OWN, self.problems)
        self.world = World()

    def step(self, name: str = "me", cidrs: tuple[str, ...] | None = OWN) -> list[str]:
        node = None if cidrs is None else Node(Meta(name), (), cidrs)
        after, touched = self.world.apply([Change(Key("Node", "", name), node)], self.world.revision + 1)
        self.own.follow(self.world, after, touched)
        self.world = after
        return self.problems.texts()


def test_a_changed_range_is_told_until_it_is_taken_back() -> None:
    rig = Rig()
    assert rig.step() == []
    [text] = rig.step(cidrs=("10.9.0.0/24",))
    assert "says 10.9.0.0/24, but 10.0.0.0/24, fd00::/64 is in use" in text
    assert rig.own.deviations == {"podCIDRs": True, "missing": False}
    assert rig.problems.blocking() == []
    assert "says nothing" in rig.step(cidrs=())[0]
    assert rig.step(cidrs=OWN[::-1]) == [], "the order does not matter"


def test_a_missing_node_is_told_from_the_first_step_on() -> None:
    rig = Rig()
    assert "is not there" in rig.step("other")[0]
    assert rig.step() == []
    assert "renamed" in rig.step(cidrs=None)[0]
    assert rig.own.deviations["missing"]


def test_other_objects_are_no_reason_to_look() -> None:
    rig = Rig()
    rig.step()
    pod = Change(Key("Pod", "shop", "a"), Pod(Meta("a", "shop")))
    after, touched = rig.world.apply([pod], 9)
    rig.own.follow(rig.world, after, touched)
    assert rig.problems.texts() == []
