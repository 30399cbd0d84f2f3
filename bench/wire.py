"""Time to wire and unwire containers, in namespaces made for it: python bench/wire.py [-n COUNT].

Prints, in milliseconds, the median and the minimum of one attachment by mode and family, of the same done step by step
through pyroute2 (pair on the node, peer moved, then configured: how most plugins do it), of one detach alone, and of all at once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence

from pyroute2 import IPRoute

from fairway_kernel import netns
from fairway_kernel.conntrack import Conntrack
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import Bridge, Veth

BRIDGE = Bridge("fw-bench", "02:fa:00:00:00:01", ("169.254.1.1/32", "fe80::1/64"))


def veth(path: str, number: int, bridged: bool, dual: bool) -> Veth:
    low, high = number % 256, number // 256
    ips = (f"10.244.{high}.{low}", f"fd00:10:244::{number:x}")
    return Veth(
        f"fw{'b' if bridged else 'r'}{number:06d}", path, "eth0", f"0a:58:0a:f4:{high:02x}:{low:02x}", ips if dual else ips[:1],
        1500, f"fairway network=bench pod=bench/{number} id=b{number}", BRIDGE.mac, BRIDGE.name if bridged else None,
    )  # fmt: skip


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1000


def show(what: str, samples: Sequence[float]) -> None:
    print(f"{what:45} median {statistics.median(samples):8.2f}   min {min(samples):8.2f}   n {len(samples)}")


def attach_and_detach(links: KernelLinks, paths: Sequence[str], bridged: bool, dual: bool) -> None:
    made = [veth(path, number, bridged, dual) for number, path in enumerate(paths, 1)]
    label = f"{'bridge' if bridged else 'routed'}, {'IPv4 and IPv6' if dual else 'IPv4'}"
    show(f"attach, {label}", [timed(lambda item=item: links.attach(item)) for item in made])  # type: ignore[misc]
    alone, together = made[: len(made) // 2], made[len(made) // 2 :]
    show(f"detach alone, {label}", [timed(lambda item=item: links.detach(item.host_ifname, item.ips)) for item in alone])  # type: ignore[misc]

    def all_at_once() -> None:
        threads = [threading.Thread(target=links.detach, args=(item.host_ifname, item.ips)) for item in together]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    print(f"{f'detach {len(together)} at once, {label}':45} total  {timed(all_at_once):8.2f}")


def step_by_step(node: str, path: str, number: int) -> float:
    """The same wiring through pyroute2, one request at a time, the interpreter and the sockets already warm."""
    item = veth(path, number, True, False)
    fd = os.open(path, os.O_RDONLY)
    start = time.perf_counter()

    def outside() -> None:
        with IPRoute() as node_side:
            node_side.link("add", ifname=item.host_ifname, kind="veth", peer={"ifname": "fwpeer"})
            peer = node_side.link_lookup(ifname="fwpeer")[0]
            node_side.link("set", index=peer, net_ns_fd=fd)
            host = node_side.link_lookup(ifname=item.host_ifname)[0]
            node_side.link("set", index=host, master=node_side.link_lookup(ifname=BRIDGE.name)[0], state="up")

    def inside() -> None:
        with IPRoute() as container:
            peer = container.link_lookup(ifname="fwpeer")[0]
            container.link("set", index=peer, ifname="eth0", address=item.mac)
            container.link("set", index=1, state="up")
            container.link("set", index=peer, state="up")
            container.addr("add", index=peer, address=item.ips[0], prefixlen=32)
            container.neigh("add", dst="169.254.1.1", lladdr=BRIDGE.mac, ifindex=peer, state=0x80)
            container.route("add", dst="default", gateway="169.254.1.1", oif=peer, flags=4)

    netns.run_in(node, outside)
    netns.run_in(path, inside)
    elapsed = (time.perf_counter() - start) * 1000
    os.close(fd)
    return elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=64, help="containers")
    count = parser.parse_args().n
    names = [f"fwbench-{os.getpid()}-{number}" for number in range(count + 1)]
    node, *paths = [netns.create(name) for name in names]
    try:
        links = KernelLinks(node)
        links.ensure_bridge(BRIDGE)
        for bridged in (True, False):
            for dual in (False, True):
                attach_and_detach(links, paths, bridged, dual)
        show("pyroute2 step by step, bridge, IPv4", [step_by_step(node, path, n) for n, path in enumerate(paths[:16], 1)])
        table = Conntrack(node)
        show("flush of one address, no connections", [timed(lambda: table.flush_address("10.244.0.1")) for _ in range(count)])
        table.close()
        links.close()
    finally:
        for name in names:
            netns.delete(name)


if __name__ == "__main__":
    main()
