"""rtnetlink answers as values. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_kernel.link.rtnl import (
    AF_UNSPEC,
    IFA_ADDRESS,
    IFA_LABEL,
    IFA_LOCAL,
    IFA_RT_PRIORITY,
    IFADDR,
    IFF_UP,
    IFINFO,
    IFLA_ADDRESS,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINK,
    IFLA_LINK_NETNSID,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    NDA_DST,
    NDA_LLADDR,
    NDMSG,
    NUD_PERMANENT,
    RTA_DST,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTA_PRIORITY,
    RTA_TABLE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    RTMSG,
    RTN_LOCAL,
    mac_text,
)
from fairway_kernel.netlink import ATTRIBUTE, Reply, attributes, s32, text, u32

NO_ATTRIBUTE = b"\0\0\0\0"
NO_NAMESPACE = b"\xff\xff\xff\xff"


@dataclass(frozen=True, slots=True)
class Link:
    """A device. `peer` is the index of a veth's other end in its own namespace, which is `namespace` as this one counts others,
    or -1; `master` an index or 0."""

    index: int
    name: str
    up: bool
    mac: str
    mtu: int
    master: int
    peer: int
    kind: str
    alias: str
    namespace: int = -1
    group: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """An address on a device. `label` exists for IPv4 only, `metric` (of its prefix route) for both."""

    index: int
    address: str
    bits: int
    label: str
    metric: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route. `destination` is "" for a default route; `device` is the first next hop's index;
    `local` means that packets to it are delivered here."""

    destination: str
    bits: int
    protocol: int
    device: int
    gateway: str
    metric: int
    table: int
    local: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour entry of any family; `address` is "" for a bridge's forwarding entry."""

    family: int
    index: int
    address: str
    mac: str
    permanent: bool


def links(replies: Iterable[Reply]) -> Iterator[Link]:
    for reply in replies:
        if reply.kind in (RTM_NEWLINK, RTM_DELLINK):
            yield link_of(reply.payload)


def link_of(payload: bytes) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(payload)
    found = attributes(payload, IFINFO.size)
    return Link(
        index=index,
        name=text(found.get(IFLA_IFNAME, b"")),
        up=bool(flags & IFF_UP),
        mac=mac_text(found.get(IFLA_ADDRESS, b"")),
        mtu=u32(found.get(IFLA_MTU, NO_ATTRIBUTE)),
        master=u32(found.get(IFLA_MASTER, NO_ATTRIBUTE)),
        peer=u32(found.get(IFLA_LINK, NO_ATTRIBUTE)),
        kind=text(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND, b"")),
        alias=text(found.get(IFLA_IFALIAS, b"")),
        group=u32(found.get(IFLA_GROUP, NO_ATTRIBUTE)),
        namespace=s32(found.get(IFLA_LINK_NETNSID, NO_NAMESPACE)),
    )


def name_of(payload: bytes) -> tuple[int, str]:
    """Index and name of a link message, which is all that most of its readers want: a tenth of the work of `link_of`."""
    _, _, index, _, _ = IFINFO.unpack_from(payload)
    start = IFINFO.size + ATTRIBUTE.size
    length, kind = ATTRIBUTE.unpack_from(payload, IFINFO.size) if len(payload) >= start else (0, 0)
    if kind == IFLA_IFNAME:
        # Where the kernel puts it.
        return index, text(payload[start : IFINFO.size + length])
    return index, text(attributes(payload, IFINFO.size).get(IFLA_IFNAME, b""))


def addresses(replies: Iterable[Reply]) -> Iterator[Address]:
    for reply in replies:
        if reply.kind in (RTM_NEWADDR, RTM_DELADDR):
            yield address_of(reply.payload)


def address_of(payload: bytes) -> Address:
    _, bits, _, _, index = IFADDR.unpack_from(payload)
    found = attributes(payload, IFADDR.size)
    data = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS, b"")
    return Address(index, _text(data), bits, text(found.get(IFA_LABEL, b"")), u32(found.get(IFA_RT_PRIORITY, NO_ATTRIBUTE)))


def routes(replies: Iterable[Reply], version: int = AF_UNSPEC) -> Iterator[Route]:
    """The routes of one family. A kernel without IPv6 answers a listing of it with all families."""
    for reply in replies:
        if reply.kind in (RTM_NEWROUTE, RTM_DELROUTE) and version in (AF_UNSPEC, reply.payload[0]):
            yield route_of(reply.payload)


def route_of(payload: bytes) -> Route:
    _, bits, _, _, table, protocol, _, kind, _ = RTMSG.unpack_from(payload)
    found = attributes(payload, RTMSG.size)
    device, gateway = u32(found.get(RTA_OIF, NO_ATTRIBUTE)), found.get(RTA_GATEWAY, b"")
    hops = found.get(RTA_MULTIPATH, b"")
    if not device and len(hops) >= 8:
        # struct rtnexthop: length, flags, hops, interface index, then attributes.
        length, _, _, device = struct.unpack_from("=HBBi", hops)
        gateway = attributes(hops[:length], 8).get(RTA_GATEWAY, b"")
    destination = _text(found.get(RTA_DST, b""))
    table = u32(found[RTA_TABLE]) if RTA_TABLE in found else table
    metric = u32(found.get(RTA_PRIORITY, NO_ATTRIBUTE))
    return Route(destination, bits, protocol, device, _text(gateway), metric, table, kind == RTN_LOCAL)


def neighbours(replies: Iterable[Reply], version: int = AF_UNSPEC) -> Iterator[Neighbour]:
    """The neighbours of one family, as for `routes`."""
    for reply in replies:
        if reply.kind in (RTM_NEWNEIGH, RTM_DELNEIGH) and version in (AF_UNSPEC, reply.payload[0]):
            yield neighbour_of(reply.payload)


def neighbour_of(payload: bytes) -> Neighbour:
    version, index, state, _, _ = NDMSG.unpack_from(payload)
    found = attributes(payload, NDMSG.size)
    mac = mac_text(found.get(NDA_LLADDR, b""))
    return Neighbour(version, index, _text(found.get(NDA_DST, b"")), mac, bool(state & NUD_PERMANENT))


def _text(data: bytes) -> str:
    return str(ip_address(data)) if len(data) in (4, 16) else ""
