"""rtnetlink messages as bytes: named constants and builders for links, addresses, routes and neighbours. Pure.

Source: rtnetlink(7) and the uapi headers if_link.h, if_addr.h, rtnetlink.h, neighbour.h. Addresses are text without prefix
length, MACs are text with colons.
"""

from __future__ import annotations

import errno
import struct
from ipaddress import ip_address

from fairway_kernel.link.objects import ROUTE_PROTOCOL
from fairway_kernel.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Request,
    attr,
    attr_text,
    attr_u8,
    attr_u32,
    nest,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE = 32

AF_UNSPEC, AF_INET, AF_BRIDGE, AF_INET6 = 0, 2, 7, 10
IFF_UP = 0x1
LOOPBACK_INDEX = 1
"""The loopback device is the first of every namespace and always has this index."""

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP, IFLA_NET_NS_FD = 18, 20, 26, 27, 28
IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_LINK_NETNSID = 29, 31, 32, 37
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
VETH_INFO_PEER = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
RTEXT_FILTER_SKIP_STATS = 1 << 3
IFLA_BR_MCAST_SNOOPING = 23
IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD = 8, 9
IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_ISOLATED = 27, 30, 33

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY = 1, 2, 3, 6, 8, 9
IFA_F_NODAD = 0x02
FOREVER = 0xFFFFFFFF

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 9, 15
RT_TABLE_UNSPEC, RT_TABLE_MAIN = 0, 254
RTN_UNICAST, RTN_LOCAL = 1, 2
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RT_SCOPE_HOST, RT_SCOPE_NOWHERE = 0, 253, 254, 255
RTNH_F_ONLINK = 4
RTM_F_FIB_MATCH = 0x2000

FRA_SRC, FRA_TABLE = 2, 15
FR_ACT_TO_TBL = 1

NDA_DST, NDA_LLADDR = 1, 2
NUD_NOARP, NUD_PERMANENT = 0x40, 0x80
NTF_MASTER = 0x04

IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
FIB_RULE = struct.Struct("=BBBBBxxBI")


def family(address: str) -> int:
    """AF_INET or AF_INET6 of an address in text form."""
    return AF_INET6 if ":" in address else AF_INET


def packed(address: str) -> bytes:
    return ip_address(address).packed


def mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def mac_text(data: bytes) -> str:
    return data.hex(":")


def host_bits(address: str) -> int:
    """The prefix length that means one host."""
    return 128 if ":" in address else 32


def link(index: int = 0, up: bool | None = None) -> bytes:
    """The fixed part of a link message; `up` None leaves the state alone."""
    return IFINFO.pack(AF_UNSPEC, 0, index, IFF_UP if up else 0, 0 if up is None else IFF_UP)


def set_link(index: int, operation: str, *parts: bytes, up: bool | None = None, tolerate: tuple[int, ...] = ()) -> Request:
    """Change an existing link."""
    return Request(RTM_NEWLINK, link(index, up) + b"".join(parts), operation, tolerate=tolerate)


def get_link(name: str) -> Request:
    """Ask for one link by name, without its statistics."""
    body = link() + attr_text(IFLA_IFNAME, name) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return Request(RTM_GETLINK, body, f"look up link {name}")


def dump_links() -> Request:
    return Request(RTM_GETLINK, link() + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS), "list links", NLM_F_DUMP)


def delete_link(name: str) -> Request:
    """Remove a link by name; a missing one counts as done."""
    return Request(RTM_DELLINK, link() + attr_text(IFLA_IFNAME, name), f"delete link {name}", tolerate=(errno.ENODEV,))


def no_auto_address(index: int, name: str) -> Request:
    """Keep the kernel from inventing a link-local address; without IPv6 there is nothing to keep it from."""
    spec = nest(IFLA_AF_SPEC, nest(AF_INET6, attr_u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE)))
    return set_link(index, f"no link-local address on {name}", spec, tolerate=(errno.EAFNOSUPPORT, errno.EOPNOTSUPP))


def add_address(index: int, address: str, bits: int, scope: int, operation: str, *parts: bytes) -> Request:
    """Add an address, replacing one that is equal; IPv6 without duplicate address detection."""
    data = packed(address)
    flags = IFA_F_NODAD if ":" in address else 0
    body = IFADDR.pack(family(address), bits, flags, scope, index) + attr(IFA_LOCAL, data) + attr(IFA_ADDRESS, data)
    return Request(RTM_NEWADDR, body + b"".join(parts), operation, NLM_F_CREATE | NLM_F_REPLACE)


def delete_address(index: int, address: str, bits: int) -> Request:
    body = IFADDR.pack(family(address), bits, 0, 0, index) + attr(IFA_LOCAL, packed(address))
    return Request(RTM_DELADDR, body, f"delete address {address}", tolerate=(errno.EADDRNOTAVAIL,))


def dump_addresses() -> Request:
    return Request(RTM_GETADDR, IFADDR.pack(AF_UNSPEC, 0, 0, 0, 0), "list addresses", NLM_F_DUMP)


def host_route(address: str, index: int) -> Request:
    """Our route to one container address through a device, replacing what was there."""
    return network_route(f"{address}/{host_bits(address)}", index)


def delete_host_route(address: str) -> Request:
    """Remove our route to one address; a missing one counts as done."""
    return delete_network_route(f"{address}/{host_bits(address)}")


def network_route(cidr: str, index: int) -> Request:
    """Our route to a network through a device, replacing what was there."""
    address, bits = cidr.split("/")
    kind = RTMSG.pack(family(address), int(bits), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_LINK, RTN_UNICAST, 0)
    body = kind + attr(RTA_DST, packed(address)) + attr_u32(RTA_OIF, index)
    return Request(RTM_NEWROUTE, body, f"route to {cidr}", NLM_F_CREATE | NLM_F_REPLACE)


def delete_network_route(cidr: str) -> Request:
    """Remove our route to a network; a missing one counts as done."""
    address, bits = cidr.split("/")
    kind = RTMSG.pack(family(address), int(bits), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_NOWHERE, 0, 0)
    tolerate = (errno.ESRCH, errno.ENETUNREACH)
    return Request(RTM_DELROUTE, kind + attr(RTA_DST, packed(address)), f"delete route to {cidr}", tolerate=tolerate)


def peer_route(cidr: str, gateway: str) -> Request:
    """Our route to another node's containers. One that somebody else has to the same network is not replaced: EEXIST."""
    address, bits = cidr.split("/")
    kind = RTMSG.pack(family(address), int(bits), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    body = kind + attr(RTA_DST, packed(address)) + attr(RTA_GATEWAY, packed(gateway))
    return Request(RTM_NEWROUTE, body, f"route to {cidr} through {gateway}", NLM_F_CREATE | NLM_F_EXCL)


def delete_peer_route(cidr: str, gateway: str) -> Request:
    """Remove such a route; a missing one counts as done."""
    address, bits = cidr.split("/")
    kind = RTMSG.pack(family(address), int(bits), 0, 0, RT_TABLE_MAIN, ROUTE_PROTOCOL, RT_SCOPE_NOWHERE, 0, 0)
    body = kind + attr(RTA_DST, packed(address)) + attr(RTA_GATEWAY, packed(gateway))
    return Request(RTM_DELROUTE, body, f"delete route to {cidr}", tolerate=(errno.ESRCH, errno.ENETUNREACH))


def match_route(address: str) -> Request:
    """Ask which table entry decides for an address (not the route it resolves to)."""
    kind = RTMSG.pack(family(address), host_bits(address), 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    return Request(RTM_GETROUTE, kind + attr(RTA_DST, packed(address)), f"look up route to {address}")


def default_route(gateway: str, index: int, table: int = RT_TABLE_MAIN) -> Request:
    """A default route through a gateway that no address covers (on-link)."""
    kind = RTMSG.pack(family(gateway), 0, 0, 0, RT_TABLE_UNSPEC, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, RTNH_F_ONLINK)
    body = kind + attr_u32(RTA_TABLE, table) + attr(RTA_GATEWAY, packed(gateway)) + attr_u32(RTA_OIF, index)
    return Request(RTM_NEWROUTE, body, f"default route through {gateway}", NLM_F_CREATE | NLM_F_EXCL)


def gateway_route(cidr: str, gateway: str, index: int) -> Request:
    """A route to a network through a gateway that no address covers, replacing what was there."""
    address, bits = cidr.split("/")
    kind = RTMSG.pack(family(address), int(bits), 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, RTNH_F_ONLINK)
    body = kind + attr(RTA_DST, packed(address)) + attr(RTA_GATEWAY, packed(gateway)) + attr_u32(RTA_OIF, index)
    return Request(RTM_NEWROUTE, body, f"route to {cidr} inside", NLM_F_CREATE | NLM_F_REPLACE)


def source_rule(address: str, table: int) -> Request:
    """What is sent from `address` looks in `table` first; an equal rule counts as done."""
    kind = FIB_RULE.pack(family(address), 0, host_bits(address), 0, RT_TABLE_UNSPEC, FR_ACT_TO_TBL, 0)
    body = kind + attr(FRA_SRC, packed(address)) + attr_u32(FRA_TABLE, table)
    return Request(RTM_NEWRULE, body, f"routing rule from {address}", NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def dump_routes(version: int, protocol: int = 0, table: int = RT_TABLE_MAIN) -> Request:
    """List one family's routes of one table (0: of all); kernels before 4.20 ignore the filters, so the reader filters too."""
    kind = RTMSG.pack(version, 0, 0, 0, table, protocol, 0, 0, 0)
    return Request(RTM_GETROUTE, kind, "list routes", NLM_F_DUMP)


def neighbour(address: str, mac: str, index: int) -> Request:
    """A permanent neighbour, replacing what was learnt."""
    body = (
        NDMSG.pack(family(address), index, NUD_PERMANENT, 0, 0)
        + attr(NDA_DST, packed(address))
        + attr(NDA_LLADDR, mac_bytes(mac))
    )
    return Request(RTM_NEWNEIGH, body, f"neighbour {address}", NLM_F_CREATE | NLM_F_REPLACE)


def delete_neighbour(address: str, index: int) -> Request:
    body = NDMSG.pack(family(address), index, 0, 0, 0) + attr(NDA_DST, packed(address))
    return Request(RTM_DELNEIGH, body, f"delete neighbour {address}", tolerate=(errno.ENOENT, errno.ENODEV, errno.ENXIO))


def dump_neighbours(version: int) -> Request:
    return Request(RTM_GETNEIGH, NDMSG.pack(version, 0, 0, 0, 0), "list neighbours", NLM_F_DUMP)


def forwarding_entry(mac: str, index: int) -> Request:
    """A fixed entry of the bridge's table: frames to `mac` leave by the port `index`, learnt from nobody."""
    body = NDMSG.pack(AF_BRIDGE, index, NUD_NOARP, NTF_MASTER, 0) + attr(NDA_LLADDR, mac_bytes(mac))
    return Request(RTM_NEWNEIGH, body, f"bridge entry {mac}", NLM_F_CREATE | NLM_F_REPLACE)
