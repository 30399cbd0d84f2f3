"""What the kernel has: our links on the node, and one container's interface."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Sequence

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import decode, shaping
from fairway_kernel.link.node import is_ours_on_loopback
from fairway_kernel.link.objects import ALIAS_PREFIX, ROUTE_PROTOCOL, VETH_GROUP, InsideState, NodeLinks, ObservedVeth
from fairway_kernel.link.rtnl import (
    AF_INET,
    AF_INET6,
    RT_TABLE_MAIN,
    RT_TABLE_UNSPEC,
    dump_addresses,
    dump_links,
    dump_neighbours,
    dump_routes,
    get_link,
    host_bits,
    match_route,
)
from fairway_kernel.netlink import NetlinkSocket

BRIDGE_PREFIX = "fw-"
VETH_PREFIXES = ("fwb", "fwr")
REDIRECTOR_PREFIX = "fwi"
FAMILIES = (AF_INET, AF_INET6)
NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ESRCH, errno.EAFNOSUPPORT, errno.EACCES, errno.EINVAL)
SHORTEST_PAUSE, LONGEST_PAUSE, PAUSES = 0.0001, 0.005, 1000
"""Seconds between looks for a local route, and how many: about five seconds in all."""


def node_links(channel: NetlinkSocket) -> NodeLinks:
    """Everything of ours in the channel's namespace, each list sorted. Raises KernelError."""
    links = list(decode.links(channel.query(dump_links())))
    names = {item.index: item.name for item in links}
    bridges = frozenset(item.name for item in links if item.name.startswith(BRIDGE_PREFIX) and item.kind == "bridge")
    veths = tuple(_observed(item, names) for item in links if item.name.startswith(VETH_PREFIXES) and _is_ours(item))
    ours = bridges | {item.host_ifname for item in veths}
    redirectors = frozenset(item.name for item in links if item.name.startswith(REDIRECTOR_PREFIX) and item.kind == "ifb")
    shaped = {index: name for index, name in names.items() if name in ours or name in redirectors}
    entries = [item for version in FAMILIES for item in decode.neighbours(channel.query(dump_neighbours(version)), version)]
    return NodeLinks(
        bridges=bridges,
        veths=tuple(sorted(veths, key=lambda item: item.host_ifname)),
        routes=tuple(sorted((item.destination, names.get(item.device, "")) for item in _routes(channel) if _to_host(item))),
        neighbours=tuple(
            sorted(
                (item.address, item.mac, names[item.index])
                for item in entries
                if item.permanent and names.get(item.index) in ours and item.address
            )
        ),
        loopback=frozenset(
            item.address for item in decode.addresses(channel.query(dump_addresses())) if is_ours_on_loopback(item)
        ),
        shapes=tuple(sorted(shaping.observed_shapes(channel.query(shaping.dump_shapes()), shaped))),
        redirectors=redirectors,
    )


def deciding_routes(channel: NetlinkSocket, address: str) -> list[decode.Route]:
    """The table entry that decides for an address, in a list; empty where none does. Raises KernelError."""
    try:
        return list(decode.routes(channel.query(match_route(address))))
    except KernelError as error:
        if error.errno in NO_ROUTE:
            return []
        raise


def await_addresses(channel: NetlinkSocket, addresses: Sequence[str]) -> None:
    """Return when packets to these addresses are delivered here. Raises KernelError(ETIMEDOUT) after five seconds.

    An IPv6 address, also one without duplicate address detection, is delivered to only after a deferred kernel job has made its
    local route; answers that come sooner are dropped. IPv4 needs no wait.
    """
    for address in addresses:
        if ":" in address:
            _await_local(channel, address)


def _await_local(channel: NetlinkSocket, address: str) -> None:
    pause = SHORTEST_PAUSE
    for _ in range(PAUSES):
        if any(item.local for item in deciding_routes(channel, address)):
            return
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
    raise KernelError(errno.ETIMEDOUT, f"address {address}", "the kernel does not deliver to it")


def inside(netns: str, ifname: str) -> InsideState:
    """The interface `ifname` as seen in the namespace at `netns`. Raises KernelError(ENOENT) if the namespace is gone."""
    try:
        return namespaces.run_in(netns, lambda: _inside(ifname))
    except KernelError as error:
        # A file that is no namespace any more (its mount is gone) is refused by setns with EINVAL.
        if error.errno == errno.EINVAL:
            raise KernelError(errno.ENOENT, error.operation) from error
        raise


def _inside(ifname: str) -> InsideState:
    channel = NetlinkSocket()
    try:
        try:
            found = next(decode.links(channel.query(get_link(ifname))))
        except KernelError as error:
            if error.errno == errno.ENODEV:
                return InsideState(exists=False)
            raise
        ips = [item.address for item in decode.addresses(channel.query(dump_addresses())) if _is_given(item, found.index)]
        defaults = [item for version in FAMILIES for item in _all(channel, version) if _is_default(item, found.index)]
    finally:
        channel.close()
    return InsideState(
        exists=True,
        up=found.up,
        mac=found.mac,
        mtu=found.mtu,
        ips=tuple(sorted(ips)),
        default_routes=tuple(item.gateway for item in defaults),
        peer_ifindex=found.peer,
    )


def _is_given(item: decode.Address, index: int) -> bool:
    return item.index == index and not item.address.startswith("fe80:")


def _is_default(item: decode.Route, index: int) -> bool:
    return item.bits == 0 and item.device == index and bool(item.gateway)


def _to_host(item: decode.Route) -> bool:
    # Through a gateway it is a way to another node, not to a container.
    return bool(item.destination) and not item.gateway and item.bits == host_bits(item.destination)


def _routes(channel: NetlinkSocket) -> Sequence[decode.Route]:
    found = [item for version in FAMILIES for item in decode.routes(channel.query(dump_routes(version, ROUTE_PROTOCOL)), version)]
    return [item for item in found if item.protocol == ROUTE_PROTOCOL and item.table == RT_TABLE_MAIN]


def _all(channel: NetlinkSocket, version: int) -> Iterator[decode.Route]:
    return decode.routes(channel.query(dump_routes(version, table=RT_TABLE_UNSPEC)), version)


def _is_ours(item: decode.Link) -> bool:
    """A name is no proof: others call their links so too. Ours have the group from the first moment on, and then the alias."""
    return item.kind == "veth" and (item.group == VETH_GROUP or item.alias.startswith(ALIAS_PREFIX))


def _observed(item: decode.Link, names: dict[int, str]) -> ObservedVeth:
    return ObservedVeth(
        host_ifname=item.name,
        ifindex=item.index,
        alias=item.alias,
        master=names.get(item.master) if item.master else None,
        up=item.up,
        mac=item.mac,
        mtu=item.mtu,
    )
