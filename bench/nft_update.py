"""What a change costs: load N services with four endpoints each, replace single endpoints, read everything back.

    python bench/nft_update.py [services ...]        default: 1000 10000

Needs root; works in a network namespace of its own. Times are milliseconds; compare them on a quiet machine only.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import time
from collections.abc import Callable

from fairway_kernel import netns
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import Chain, Elements, Layout, SetDecl, Slot
from fairway_kernel.nft.tables import NftTables

SVC = SetDecl("svc4", ("ipv4_addr", "inet_proto", "inet_service"), ("mark",))
EPS = SetDecl("eps4", ("meta mark", "numgen random mod 65536"), ("ip daddr", "th dport"), typeof=True)
PICK = tuple(
    Chain(f"lb{k}", (f"meta l4proto {{ tcp, udp, sctp }} dnat ip to meta mark . numgen random mod {k} map @eps4",))
    for k in range(1, 65)
)
TARGETS = ", ".join(f"{k} : goto lb{k}" for k in range(1, 65))
DISPATCH = Chain(
    "dispatch",
    ("meta mark set ip daddr . meta l4proto . th dport map @svc4", f"meta mark & 0xff vmap {{ {TARGETS} }}"),
    "type nat hook prerouting priority -100;",
)
LAYOUT = Layout((SVC, EPS), (*PICK, DISPATCH))
UPDATES = 300


def service(number: int, port: int = 8080) -> Elements:
    """One service with four endpoints."""
    mark, tail = number << 12 | 4, f"{number >> 8 & 255}.{number & 255}"
    slots: dict[Slot, tuple[str | int, ...]] = {Slot("svc4", (f"10.96.{tail}", "tcp", 80)): (mark,)}
    slots.update({Slot("eps4", (mark, slot)): (f"10.{100 + slot}.{tail}", port if slot == 0 else 8080) for slot in range(4)})
    return slots


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def measure(count: int, path: str) -> None:
    runner = LibnftablesRunner(path)
    tables = NftTables(runner, LAYOUT, logging.getLogger("bench"))
    adopt = timed(tables.adopt)
    declare = timed(lambda: [tables.declare(("service", str(n)), service(n)) for n in range(count)])
    load = timed(tables.commit)
    updates = []
    for step in range(UPDATES):
        number = step * 37 % count
        changed = service(number, 1 + step)
        updates.append(timed(lambda n=number, c=changed: (tables.declare(("service", str(n)), c), tables.commit())))
    replace = timed(lambda: tables.replace_chains((Chain("lb64", ("drop",)),)))
    verify = timed(tables.verify)
    print(
        f"{count:6} services: layout {adopt:.1f}, declare {declare:.0f}, load {load:.0f}, one endpoint min {min(updates):.3f}"
        f" median {statistics.median(updates):.3f}, chain replaced {replace:.2f}, verify {verify:.0f}"
    )
    tables.close()


def main() -> None:
    for count in map(int, sys.argv[1:] or ["1000", "10000"]):
        name = f"fwbench-{os.getpid()}-{count}"
        try:
            measure(count, netns.create(name))
        finally:
            netns.delete(name)


if __name__ == "__main__":
    main()
