"""Routes to the pods of other nodes: through their own addresses, if those are on a link of this node. Recognised after a restart
by their protocol number and gateway."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fairway_core.errors import KernelError
from fairway_kernel.link import decode, survey
from fairway_kernel.link.objects import ROUTE_PROTOCOL, PeerRoutes
from fairway_kernel.link.rtnl import AF_INET, AF_INET6, RT_TABLE_MAIN, delete_peer_route, dump_routes, peer_route
from fairway_kernel.netlink import NetlinkSocket


@dataclass(frozen=True, slots=True)
class _Found:
    """The routes of the main table to one network: ours, and the gateways of others' ("" if directly connected)."""

    ours: str = ""
    others: tuple[str, ...] = ()


_NONE = _Found()


def ensure_peer_routes(channel: NetlinkSocket, wanted: Mapping[str, str]) -> PeerRoutes:
    """See LinkManager. Raises KernelError if the tables cannot be read or changed."""
    table = _read(channel)
    reachable = {gateway: _why_not(channel, gateway) for gateway in sorted(set(wanted.values()))}
    faults = {cidr: _fault(table.get(cidr, _NONE), gateway, reachable) for cidr, gateway in wanted.items()}
    refused = {cidr: fault for cidr, fault in faults.items() if fault}
    keep = {cidr: gateway for cidr, gateway in wanted.items() if not faults[cidr] and not table.get(cidr, _NONE).others}
    gone = sorted((cidr, found.ours) for cidr, found in table.items() if found.ours and keep.get(cidr) != found.ours)
    new = sorted((cidr, gateway) for cidr, gateway in keep.items() if table.get(cidr, _NONE).ours != gateway)
    channel.transact([delete_peer_route(*item) for item in gone])
    errors = channel.attempt([peer_route(*item) for item in new])
    refused |= {
        cidr: f"the kernel refuses it: {error}" for (cidr, _), error in zip(new, errors, strict=True) if error is not None
    }
    return PeerRoutes(len(gone) + len(new), refused)


def _read(channel: NetlinkSocket) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for route in (item for version in (AF_INET, AF_INET6) for item in _main(channel, version)):
        cidr = f"{route.destination}/{route.bits}"
        known = found.get(cidr, _NONE)
        ours = route.protocol == ROUTE_PROTOCOL
        if ours and not route.gateway:
            # To a container or to virtual IPs: not of this kind.
            continue
        found[cidr] = _Found(route.gateway, known.others) if ours else _Found(known.ours, (*known.others, route.gateway))
    return found


def _main(channel: NetlinkSocket, version: int) -> Iterator[decode.Route]:
    try:
        replies = channel.query(dump_routes(version))
    except KernelError as error:
        if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            return
        raise
    yield from (item for item in decode.routes(replies, version) if item.table == RT_TABLE_MAIN and item.destination)


def _fault(found: _Found, gateway: str, reachable: Mapping[str, str]) -> str:
    """Somebody else's route that leads the same way serves as well as ours; one that leads elsewhere stays, and is told."""
    if found.others:
        elsewhere = [other or "a link of this node" for other in found.others if other != gateway]
        return f"another program's route leads to {elsewhere[0]}" if elsewhere else ""
    return reachable[gateway]


def _why_not(channel: NetlinkSocket, gateway: str) -> str:
    """Why an address is not on a link of this node; empty if it is."""
    deciding = survey.deciding_routes(channel, gateway)
    if not deciding:
        return f"there is no way to {gateway}"
    if deciding[0].local:
        return f"{gateway} is an address of this node"
    if deciding[0].gateway or not deciding[0].device:
        return f"{gateway} is not on a link of this node"
    return ""
