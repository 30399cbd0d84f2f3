"""What one change of a service costs, from objects to the kernel, next to `nft -f` with the same change.

    python bench/update.py [--full] [--rounds N]

A step is: World.apply, ServiceCompiler.update, element difference, transaction text, commit through libnftables. Two kinds:
one endpoint replaced in a declared EndpointSlice, one pod of a selector service becoming (un)ready. Sizes are loaded side by
side in namespaces of their own and measured in turns, so that other load on the machine hits all of them alike.
The peer is the same path with an `nft -f -` process instead of the library.

Needs root. Figures: median and minimum in milliseconds.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from fairway_core.model import Endpoint, EndpointSlice, Meta, Object, Pod, Service, ServicePort, SlicePort
from fairway_core.selectors import selector_from_labels
from fairway_core.world import Change, World
from fairway_kernel import netns
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.tables import NftTables
from fairway_kernel.nft.transaction import Transaction
from fairway_proxy.compile import ServiceCompiler

SIZES = (10, 100, 1000)
ENDPOINTS = 4


def service_objects(number: int) -> list[Object]:
    """One service with four endpoints: pods for even numbers, a declared slice for odd ones."""
    tail, name = f"{number >> 8}.{number & 255}", f"s{number}"
    labels = {"app": name}
    chosen = None if number % 2 else selector_from_labels(labels)
    service = Service(
        Meta(name, "bench"), cluster_ips=(f"10.96.{tail}",), selector=chosen, ports=(ServicePort(80, "TCP", "web", 8080),)
    )
    ips = [f"10.{100 + n}.{tail}" for n in range(ENDPOINTS)]
    if number % 2:
        endpoints = tuple(Endpoint((ip,), node_name="other") for ip in ips)
        return [service, EndpointSlice(Meta(name, "bench"), name, 4, endpoints, (SlicePort("web", 8080),))]
    pods = [
        Pod(Meta(f"{name}-{n}", "bench", labels), (ip,), node_name="other", phase="Running", ready=True)
        for n, ip in enumerate(ips)
    ]
    return [service, *pods]


class ProcessRunner(LibnftablesRunner):
    """The peer: a new `nft` process per transaction."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def run(self, transaction: Transaction) -> None:
        script = str(transaction).encode()
        netns.run_in(self._path, lambda: subprocess.run(["nft", "-f", "-"], input=script, check=True))


WAYS: dict[type[LibnftablesRunner], str] = {LibnftablesRunner: "library", ProcessRunner: "nft -f"}


class Node:
    """One namespace with so many services in it, and the agent's path from objects to kernel."""

    def __init__(self, size: int, way: type[LibnftablesRunner]) -> None:
        self.size, self.way = size, way
        self.name = f"fwbench-{os.getpid()}-{way.__name__}-{size}"
        path = netns.create(self.name)
        self._world = World()
        self._compiler = ServiceCompiler("here", ("10.244.0.0/24",))
        self._tables = NftTables(way(path), self._compiler.layout, logging.getLogger("bench"))
        self._tables.adopt()
        self.load = self.step([item for number in range(size) for item in service_objects(number)])

    def step(self, items: list[Object]) -> float:
        """Apply objects; milliseconds until they are live."""
        start = time.perf_counter()
        changes = [Change(item.meta.key(type(item).__name__), item) for item in items]
        after, touched = self._world.apply(changes, self._world.revision + 1)
        for owner, elements in self._compiler.update(self._world, after, touched).items():
            self._tables.declare(owner, elements)
        self._world = after
        if not self._tables.commit():
            raise RuntimeError("the step changed nothing")
        return (time.perf_counter() - start) * 1000

    def close(self) -> None:
        self._tables.close()
        netns.delete(self.name)

    def endpoint(self, turn: int) -> list[Object]:
        item = service_objects(turn * 38 % self.size | 1)[1]
        assert isinstance(item, EndpointSlice)
        moved = replace(item.endpoints[0], addresses=(f"10.99.{turn >> 8 & 255}.{turn & 255}",))
        return [replace(item, endpoints=(*item.endpoints[1:], moved))]

    def pod(self, turn: int) -> list[Object]:
        number = turn // 2 * 38 % self.size & ~1
        item = service_objects(number)[1]
        assert isinstance(item, Pod)
        return [replace(item, ready=turn % 2 == 1)]


def measure(
    nodes: list[Node], kinds: dict[str, Callable[[Node, int], list[Object]]], rounds: int
) -> dict[tuple[str, Node], list[float]]:
    times: dict[tuple[str, Node], list[float]] = defaultdict(list)
    for turn in range(rounds):
        for kind, change in kinds.items():
            for node in nodes:
                times[kind, node].append(node.step(change(node, turn)))
    return times


def report(nodes: list[Node], kinds: Iterable[str], times: dict[tuple[str, Node], list[float]]) -> None:
    print(f"{'services':>8}  {'way':8} {'load':>8}  " + "  ".join(f"{kind + ' median':>18} {'min':>7}" for kind in kinds))
    for node in nodes:
        cells = (f"{statistics.median(times[kind, node]):18.3f} {min(times[kind, node]):7.3f}" for kind in kinds)
        print(f"{node.size:8}  {WAYS[node.way]:8} {node.load:8.1f}  " + "  ".join(cells))
    for way in WAYS:
        own = {node.size: node for node in nodes if node.way is way}
        for kind in kinds:
            ratio = statistics.median(times[kind, own[1000]]) / statistics.median(times[kind, own[10]])
            print(f"ratio 1000 / 10 services, {WAYS[way]}, {kind}: {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of one service change at several sizes.")
    parser.add_argument("--full", action="store_true", help="measure 10,000 services too")
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    kinds: dict[str, Callable[[Node, int], list[Object]]] = {"endpoint": Node.endpoint, "pod": Node.pod}
    nodes: list[Node] = []
    try:
        nodes.extend(Node(size, way) for size in (*SIZES, *((10000,) if options.full else ())) for way in WAYS)
        report(nodes, kinds, measure(nodes, kinds, options.rounds))
    finally:
        for node in nodes:
            node.close()


if __name__ == "__main__":
    main()
