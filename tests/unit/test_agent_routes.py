"""Routes follow the Nodes of the world; what cannot be obeyed is named, node by node."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from fairway_agent.problems import Problems
from fairway_agent.routes import PeerRouting, Surroundings
from fairway_core.keys import Key
from fairway_core.model import Meta, Node, Pod
from fairway_core.world import Change, World
from fairway_kernel.link.fake import FakeLinks

LOG = logging.getLogger("test")


@dataclass
class Rig:
    """A node called me with 10.0.0.0/24 and fd00::/64 on the link 192.0.2.0/24, and what its routing does."""

    direct: bool = True
    links: FakeLinks = field(default_factory=FakeLinks)
    problems: Problems = field(default_factory=lambda: Problems(LOG))
    world: World = field(default_factory=World)

    def __post_init__(self) -> None:
        self.links.add_link("192.0.2.0/24")
        here = Surroundings("me", ("10.0.0.0/24", "fd00::/64"), ("10.96.0.0/16",), self.direct)
        self.routing = PeerRouting(self.links, here, self.problems, LOG)

    async def step(self, *nodes: Node, gone: tuple[str, ...] = ()) -> bool:
        changes = [Change(Key("Node", "", node.meta.name), node) for node in nodes]
        changes += [Change(Key("Node", "", name), None) for name in gone]
        before = self.world
        self.world, touched = before.apply(changes, before.revision + 1)
        self.routing.follow(before, self.world, touched)
        return await self.routing.ensure()

    @property
    def routes(self) -> str:
        return self.links.calls[-1][1]


def node(name: str, *cidrs: str, ip: str = "192.0.2.7") -> Node:
    return Node(Meta(name), (ip,), cidrs, (ip,))


async def test_a_route_comes_moves_and_goes_with_its_node() -> None:
    rig = Rig()
    await rig.step(node("me", "10.0.0.0/24", ip="192.0.2.1"))
    assert rig.routes == ""
    await rig.step(node("n2", "10.2.0.0/24"), node("n3", "10.3.0.0/24", ip="192.0.2.8"))
    assert rig.routes == "10.2.0.0/24=192.0.2.7,10.3.0.0/24=192.0.2.8"
    assert rig.routing.installed == 2
    await rig.step(node("n2", "10.4.0.0/24", ip="192.0.2.9"), gone=("n3",))
    assert rig.routes == "10.4.0.0/24=192.0.2.9"
    await rig.step(node("renamed", "10.4.0.0/24", ip="192.0.2.9"), gone=("n2",))
    assert rig.routes == "10.4.0.0/24=192.0.2.9"
    assert rig.problems.texts() == []


async def test_what_cannot_be_obeyed_is_a_problem_of_that_node_alone() -> None:
    rig = Rig()
    far, thief, short = node("far", "10.5.0.0/24", ip="198.51.100.1"), node("thief", "10.0.0.128/25"), node("v4", "fd07::/64")
    await rig.step(node("n2", "10.2.0.0/24"), far, thief, short)
    assert rig.routes == "10.2.0.0/24=192.0.2.7,10.5.0.0/24=198.51.100.1"
    assert [text.partition(":")[0] for text in rig.problems.texts()] == ["node thief", "node far", "node v4"]
    assert rig.problems.blocking() == [], "the node serves its own containers"
    await rig.step(node("far", "10.5.0.0/24"), gone=("thief", "v4"))
    assert rig.problems.texts() == []
    assert rig.routing.installed == 2


async def test_routing_none_removes_routes_and_still_names_conflicts() -> None:
    rig = Rig(direct=False)
    await rig.step(node("n2", "10.2.0.0/24"), node("thief", "10.0.0.0/24"), node("far", "10.5.0.0/24", ip="198.51.100.1"))
    assert rig.routes == ""
    assert [text.partition(":")[0] for text in rig.problems.texts()] == ["node thief"]


async def test_a_lost_route_counts_as_a_repair_and_a_wanted_change_does_not() -> None:
    rig = Rig()
    assert not await rig.step(node("n2", "10.2.0.0/24"))
    assert not await rig.routing.ensure()
    rig.links.ensure_peer_routes({})
    assert await rig.routing.ensure()


async def test_the_loop_carries_out_what_follow_noticed() -> None:
    rig = Rig()
    running = asyncio.create_task(rig.routing.run())
    rig.world, touched = rig.world.apply([Change(Key("Node", "", "n2"), node("n2", "10.2.0.0/24"))], 1)
    rig.routing.follow(World(), rig.world, touched)
    async with asyncio.timeout(5):
        while rig.routing.installed != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    running.cancel()


async def test_routes_of_an_earlier_agent_stay_until_the_nodes_are_known() -> None:
    rig = Rig()
    rig.links.ensure_peer_routes({"10.2.0.0/24": "192.0.2.7"})
    assert not await rig.routing.ensure()
    assert rig.routes == "10.2.0.0/24=192.0.2.7"
    pod = Change(Key("Pod", "shop", "a"), Pod(Meta("a", "shop")))
    rig.world, touched = rig.world.apply([pod], 1)
    rig.routing.follow(World(), rig.world, touched)
    await rig.routing.ensure()
    assert rig.routes == "", "a world without nodes is known too"
