"""The node's own devices: bridges, addresses on lo, routes towards virtual IPs."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from ipaddress import ip_interface, ip_network

from fairway_core.errors import KernelError
from fairway_kernel.link import decode
from fairway_kernel.link.device import Devices
from fairway_kernel.link.objects import LOOPBACK_LABEL, ROUTE_PROTOCOL, Bridge
from fairway_kernel.link.rtnl import (
    AF_INET,
    AF_INET6,
    FOREVER,
    IFA_CACHEINFO,
    IFA_LABEL,
    IFA_RT_PRIORITY,
    IFLA_ADDRESS,
    IFLA_BR_MCAST_SNOOPING,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    LOOPBACK_INDEX,
    RT_SCOPE_HOST,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTM_NEWLINK,
    add_address,
    delete_address,
    delete_link,
    delete_network_route,
    dump_addresses,
    dump_links,
    dump_routes,
    get_link,
    host_bits,
    link,
    mac_bytes,
    network_route,
    no_auto_address,
    set_link,
)
from fairway_kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, NetlinkSocket, Request, attr, attr_text, attr_u8, attr_u32, nest
from fairway_kernel.sysctl import Sysctls

ADDRESS_MARK = ROUTE_PROTOCOL
"""Metric that marks our IPv6 addresses on lo, which cannot carry a label."""


def ensure_bridge(channel: NetlinkSocket, devices: Devices, sysctls: Sysctls, bridge: Bridge) -> None:
    """Create or correct the bridge and its addresses. Raises KernelError."""
    if devices.index(bridge.name) is None:
        channel.transact([_create_bridge(bridge)])
    index = devices.need(bridge.name)
    sysctls.ensure(_bridge_settings(bridge))
    now = next(decode.links(channel.query(get_link(bridge.name))))
    # Setting the address, even to what it is, makes the kernel forget every neighbour on the bridge, permanent ones too.
    address = b"" if now.mac == bridge.mac else attr(IFLA_ADDRESS, mac_bytes(bridge.mac))
    configure = set_link(index, f"configure {bridge.name}", address, attr_u32(IFLA_MTU, bridge.mtu), up=True)
    channel.transact([no_auto_address(index, bridge.name), configure])
    wanted = {(str(item.ip), item.network.prefixlen) for item in map(ip_interface, bridge.addresses)}
    here = [item for item in decode.addresses(channel.query(dump_addresses())) if item.index == index]
    found = {(item.address, item.bits) for item in here}
    channel.transact([delete_address(index, *item) for item in sorted(found - wanted)])
    channel.transact(
        [add_address(index, *item, RT_SCOPE_LINK, f"address {item[0]} on {bridge.name}") for item in sorted(wanted - found)]
    )


def delete_bridge(channel: NetlinkSocket, name: str, mac: str = "") -> None:
    """Remove it, with `mac` only if that is its address; a missing one is no error. Raises KernelError."""
    try:
        found = next(decode.links(channel.query(get_link(name))))
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return
        raise
    if mac in ("", found.mac):
        channel.transact([delete_link(name)])


def ensure_loopback(channel: NetlinkSocket, addresses: Sequence[str]) -> None:
    """Exactly these addresses of ours on lo. Raises KernelError."""
    found = {item.address for item in decode.addresses(channel.query(dump_addresses())) if is_ours_on_loopback(item)}
    wanted = set(addresses)
    requests = [set_link(LOOPBACK_INDEX, "bring up lo", up=True)]
    requests += [delete_address(LOOPBACK_INDEX, item, host_bits(item)) for item in sorted(found - wanted)]
    requests += [_loopback_address(item) for item in sorted(wanted - found)]
    channel.transact(requests)


def is_ours_on_loopback(item: decode.Address) -> bool:
    """Whether an address was put on lo by us."""
    if item.index != LOOPBACK_INDEX:
        return False
    return item.label == LOOPBACK_LABEL if ":" not in item.address else item.metric == ADDRESS_MARK


def ensure_service_routes(channel: NetlinkSocket, cidrs: Sequence[str]) -> None:
    """Routes that let the node's own packets to virtual IPs reach the output hook. Raises KernelError.

    Without any route the kernel refuses to send before a rule sees the packet. IPv4 goes by lo. IPv6 turns routes by lo into
    refusals, so it needs one of our bridges; without one the node's own processes get no IPv6 virtual IPs.
    """
    links = list(decode.links(channel.query(dump_links())))
    # One that is just being made is not up yet; its coming up is noticed, and leads here again.
    ready = (item for item in links if item.name.startswith("fw-") and item.kind == "bridge" and item.up)
    bridge = min((item.index for item in ready), default=0)
    for version, device in ((AF_INET, LOOPBACK_INDEX), (AF_INET6, bridge)):
        try:
            table = list(decode.routes(channel.query(dump_routes(version)), version))
        except KernelError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
                continue
            raise
        mine = [str(ip_network(item)) for item in cidrs if (":" in item) == (version == AF_INET6)]
        needed = set(mine) if device and not any(item.bits == 0 for item in table) else set()
        _sync_network_routes(channel, table, needed, device)


def _sync_network_routes(channel: NetlinkSocket, table: Sequence[decode.Route], needed: set[str], device: int) -> None:
    ours = {
        f"{item.destination}/{item.bits}": item.device
        for item in table
        if item.protocol == ROUTE_PROTOCOL and not item.gateway and item.destination and item.bits != host_bits(item.destination)
    }
    requests = [delete_network_route(cidr) for cidr in sorted(set(ours) - needed)]
    requests += [network_route(cidr, device) for cidr in sorted(needed) if ours.get(cidr) != device]
    channel.transact(requests)


def _create_bridge(bridge: Bridge) -> Request:
    """Without multicast snooping: its bookkeeping per port serves nobody here."""
    info = nest(
        IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, "bridge"), nest(IFLA_INFO_DATA, attr_u8(IFLA_BR_MCAST_SNOOPING, 0))
    )  # fmt: skip
    body = link() + attr_text(IFLA_IFNAME, bridge.name) + attr(IFLA_ADDRESS, mac_bytes(bridge.mac)) + info
    return Request(RTM_NEWLINK, body, f"create bridge {bridge.name}", NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def _bridge_settings(bridge: Bridge) -> dict[str, str]:
    """Neighbours of one bridge talk through the node on purpose: it must not tell them to talk directly."""
    settings = {
        "net/ipv4/conf/all/send_redirects": "0",
        f"net/ipv4/conf/{bridge.name}/send_redirects": "0",
        f"net/ipv6/conf/{bridge.name}/accept_ra": "0",
        f"net/ipv6/conf/{bridge.name}/accept_dad": "0",
    }
    if any(":" in item for item in bridge.addresses):
        settings[f"net/ipv6/conf/{bridge.name}/disable_ipv6"] = "0"
    return settings


def _loopback_address(address: str) -> Request:
    """Never a source address by itself: host scope in IPv4, deprecated (preferred lifetime 0) in IPv6."""
    operation = f"address {address} on lo"
    if ":" in address:
        lifetime = attr(IFA_CACHEINFO, struct.pack("=IIII", 0, FOREVER, 0, 0))
        mark = attr_u32(IFA_RT_PRIORITY, ADDRESS_MARK)
        return add_address(LOOPBACK_INDEX, address, 128, RT_SCOPE_UNIVERSE, operation, lifetime, mark)
    return add_address(LOOPBACK_INDEX, address, 32, RT_SCOPE_HOST, operation, attr_text(IFA_LABEL, LOOPBACK_LABEL))
