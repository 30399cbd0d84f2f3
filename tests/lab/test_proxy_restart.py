"""The service rules in the kernel through the real table owner: a restart adopts them, a flush is repaired."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from fairway_core.model import Endpoint, EndpointSlice, Meta, Object, Service, ServicePort, SlicePort
from fairway_core.world import Change, World
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import INET
from fairway_kernel.nft.tables import NftTables
from fairway_kernel.nft.transaction import DeleteTable, FlushChain, Transaction
from fairway_proxy.compile import ServiceCompiler
from fairway_proxy.trace import trace

pytestmark = pytest.mark.needs_root

LOG = logging.getLogger("test")
PORTS = (ServicePort(80, "TCP", "t", 8080, 30080), ServicePort(53, "UDP", "u", 53), ServicePort(90, "SCTP", "s", 90))
SLICE_PORTS = (SlicePort("t", 8080), SlicePort("u", 53, "UDP"), SlicePort("s", 90, "SCTP"))


def objects() -> list[Object]:
    made: list[Object] = []
    for number in range(1, 6):
        service = Service(
            Meta(f"s{number}", "shop"),
            cluster_ips=(f"10.96.0.{number}", f"fd00::{number}"),
            ports=tuple(replace(port, node_port=port.node_port and port.node_port + number) for port in PORTS),
            external_ips=(f"203.0.113.{number}",),
            affinity_seconds=number % 2 * 10800,
            external_policy_local=number == 3,
        )
        made.append(service)
        for family, prefix in ((4, "10.244.0."), (6, "fd00:1::")):
            count = 70 if number == 5 else number
            endpoints = tuple(Endpoint((f"{prefix}{n}",), node_name="here") for n in range(1, count + 1))
            made.append(EndpointSlice(Meta(f"s{number}-{family}", "shop"), f"s{number}", family, endpoints, SLICE_PORTS))
    return made


def world_of(items: list[Object]) -> World:
    return World().apply([Change(item.meta.key(type(item).__name__), item) for item in items], 1)[0]


def start(path: str, world: World) -> tuple[ServiceCompiler, NftTables]:
    """What the agent does at start, up to the first commit."""
    compiler = ServiceCompiler("here", ("10.244.0.0/24", "fd00:1::/64"))
    tables = NftTables(LibnftablesRunner(path), compiler.layout, LOG)
    compiler.learn(tables.adopt())
    for owner, elements in compiler.update(World(), world, frozenset(world.objects)).items():
        tables.declare(owner, elements)
    return compiler, tables


def test_a_restart_finds_nothing_to_change_even_after_services_went(namespace: str) -> None:
    items = objects()
    world = world_of(items)
    compiler, tables = start(namespace, world)
    assert tables.commit() and not tables.verify()
    gone = [item for item in items if item.meta.name.startswith("s2")]
    after, touched = world.apply([Change(item.meta.key(type(item).__name__), None) for item in gone], 2)
    for owner, elements in compiler.update(world, after, touched).items():
        tables.declare(owner, elements)
    tables.commit()
    tables.close()
    _, again = start(namespace, after)
    assert again.adopted_intact
    assert not again.commit() and not again.verify()
    again.close()


def test_a_flushed_table_comes_back_with_the_same_meaning(namespace: str) -> None:
    world = world_of(objects())
    _, tables = start(namespace, world)
    before = dict(tables.commit().add)
    runner = LibnftablesRunner(namespace)
    runner.run(Transaction([DeleteTable(INET)]))
    assert len(tables.verify()) >= len(before)
    state = runner.read(INET, ServiceCompiler("here", ()).layout)
    assert state is not None and dict(state.elements) == before
    assert len(trace(state.elements, "10.96.0.5", "tcp", 80).shares) == 70
    runner.close()
    tables.close()


def test_emptied_chains_are_filled_again_and_every_element_stays(namespace: str) -> None:
    """Rules that look into a map with a `th` field cannot be added to a map nft has read back: it is made anew with them."""
    world = world_of(objects())
    compiler, tables = start(namespace, world)
    before = dict(tables.commit().add)
    runner = LibnftablesRunner(namespace)
    runner.run(Transaction([FlushChain(chain) for chain in compiler.layout.chains if chain.name in ("lb_1", "svc_sticky")]))
    repair = tables.verify()
    assert repair and not tables.verify()
    state = runner.read(INET, compiler.layout)
    assert state is not None and dict(state.elements) == before
    assert all(state.chain_states[chain.name].rules for chain in compiler.layout.chains if chain.rules)
    runner.close()
    tables.close()
