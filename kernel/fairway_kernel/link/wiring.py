"""The requests that make one attachment, both sides of it. Pure: bytes only.

Facts the order rests on: the peer's part must not carry IFF_UP (ENOTCONN); properties of a bridge port can be set only once it
is one, so the host end is made down and comes up last, when it is isolated already; IPv6 addresses need an interface that is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fairway_kernel.link.objects import GATEWAY4, GATEWAY6, VETH_GROUP, Veth
from fairway_kernel.link.rtnl import (
    AF_INET6,
    IFLA_ADDRESS,
    IFLA_BRPORT_BCAST_FLOOD,
    IFLA_BRPORT_ISOLATED,
    IFLA_BRPORT_LEARNING,
    IFLA_BRPORT_MCAST_FLOOD,
    IFLA_BRPORT_UNICAST_FLOOD,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    IFLA_MTU,
    IFLA_NET_NS_FD,
    IFLA_NUM_RX_QUEUES,
    IFLA_NUM_TX_QUEUES,
    LOOPBACK_INDEX,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTM_NEWLINK,
    VETH_INFO_PEER,
    add_address,
    default_route,
    family,
    forwarding_entry,
    gateway_route,
    host_bits,
    host_route,
    link,
    mac_bytes,
    neighbour,
    no_auto_address,
    set_link,
    source_rule,
)
from fairway_kernel.netlink import NLM_F_CREATE, NLM_F_EXCL, Request, attr, attr_text, attr_u8, attr_u32, nest

SOURCE_TABLES = 157_000
"""Number of the first routing table for further interfaces; the interface index is added."""


def port_mac(veth: Veth) -> str:
    """The host end's own MAC: `host_mac` in routed mode; on a bridge one of its own, never lower than the bridge's."""
    return veth.host_mac if veth.master is None else f"fe{veth.mac[2:]}"


def create_pair(veth: Veth, netns_fd: int, master: int) -> Request:
    """The pair, the peer already inside the namespace behind `netns_fd` under its final name; both ends down.

    One queue each way: veth takes no transmit lock, and the default of one per CPU costs milliseconds on large machines.
    """
    queues = attr_u32(IFLA_NUM_TX_QUEUES, 1) + attr_u32(IFLA_NUM_RX_QUEUES, 1)
    size = attr_u32(IFLA_MTU, veth.mtu)
    peer = (
        link() + attr_text(IFLA_IFNAME, veth.ifname) + attr_u32(IFLA_NET_NS_FD, netns_fd)
        + attr(IFLA_ADDRESS, mac_bytes(veth.mac)) + size + queues
    )  # fmt: skip
    body = (
        link() + attr_text(IFLA_IFNAME, veth.host_ifname) + attr(IFLA_ADDRESS, mac_bytes(port_mac(veth)))
        + attr_u32(IFLA_GROUP, VETH_GROUP) + size + queues
    )  # fmt: skip
    body += attr_u32(IFLA_MASTER, master) if master else b""
    body += nest(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, "veth"), nest(IFLA_INFO_DATA, attr(VETH_INFO_PEER, peer)))
    return Request(RTM_NEWLINK, body, f"create {veth.host_ifname} with {veth.ifname} inside", NLM_F_CREATE | NLM_F_EXCL)


PortRequests = Callable[[Veth, int, int], list[Request]]
"""From a veth, its host end's index and the bridge's index or 0 to requests."""


def fresh_port(veth: Veth, index: int, master: int) -> list[Request]:
    """What a host end that was just created lacks, but for `connection`."""
    properties = [attr_text(IFLA_IFALIAS, veth.alias)]
    if master:
        properties.append(_port_properties())
    requests = [set_link(index, f"configure {veth.host_ifname}", *properties), no_auto_address(index, veth.host_ifname)]
    return [*requests, forwarding_entry(veth.mac, index)] if master else requests


def port(veth: Veth, index: int, master: int) -> list[Request]:
    """The same for a host end of unknown history."""
    again = (
        attr_u32(IFLA_MASTER, master),
        attr_u32(IFLA_GROUP, VETH_GROUP),
        attr_u32(IFLA_MTU, veth.mtu),
        attr(IFLA_ADDRESS, mac_bytes(port_mac(veth))),
    )
    return [set_link(index, f"restore {veth.host_ifname}", *again), *fresh_port(veth, index, master)]


def connection(veth: Veth, index: int, master: int) -> list[Request]:
    """What lets packets pass: the host end up, routes and neighbours; repeating it repairs."""
    device = master or index
    requests = [set_link(index, f"bring up {veth.host_ifname}", up=True)]
    for address in veth.ips:
        requests += [host_route(address, device), neighbour(address, veth.mac, device)]
    return requests


def _port_properties() -> bytes:
    """No frame to another isolated port, nothing learnt, nothing flooded (neighbours are permanent)."""
    off = (IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_MCAST_FLOOD, IFLA_BRPORT_BCAST_FLOOD)
    properties = nest(IFLA_INFO_SLAVE_DATA, attr_u8(IFLA_BRPORT_ISOLATED, 1), *(attr_u8(kind, 0) for kind in off))
    return nest(IFLA_LINKINFO, attr_text(IFLA_INFO_SLAVE_KIND, "bridge"), properties)


def inside(veth: Veth, index: int) -> list[Request]:
    """Everything in the container but default routes: lo and the interface up, addresses, the gateways' neighbours, routes."""
    requests = [
        set_link(LOOPBACK_INDEX, "bring up lo inside", up=True),
        set_link(index, f"bring up {veth.ifname} inside", up=True),
    ]
    requests += [
        add_address(index, address, host_bits(address), RT_SCOPE_UNIVERSE, f"address {address} inside") for address in veth.ips
    ]
    requests += [neighbour(gateway, veth.host_mac, index) for gateway in gateways(veth.ips)]
    return [*requests, *_static_routes(veth, index)]


def default_routes(veth: Veth, index: int, table: int = RT_TABLE_MAIN) -> list[Request]:
    """The default routes of the families that `veth` has. EEXIST: the container has another interface, see `source_routes`."""
    return [default_route(gateway, index, table) for gateway in gateways(veth.ips)]


def source_routes(veth: Veth, index: int) -> list[Request]:
    """For an interface that is not the container's first: what is sent from its addresses leaves through it.

    Without them answers would leave by the first interface and be dropped there as spoofed.
    """
    table = SOURCE_TABLES + index
    return default_routes(veth, index, table) + [source_rule(address, table) for address in veth.ips]


def _static_routes(veth: Veth, index: int) -> list[Request]:
    """Further destinations through this interface, of the families it has an address of."""
    ways = {":" in gateway: gateway for gateway in gateways(veth.ips)}
    return [gateway_route(cidr, ways[":" in cidr], index) for cidr in veth.routes if (":" in cidr) in ways]


def gateways(ips: Sequence[str]) -> list[str]:
    """The gateways of the families that `ips` has."""
    families = {family(address) for address in ips}
    return [GATEWAY6 if version == AF_INET6 else GATEWAY4 for version in sorted(families)]


def inside_settings(veth: Veth) -> dict[str, str]:
    """Kernel settings of the container's interface, before it comes up.

    A redirect would tell the container that its neighbour is on the link, and the isolated port would then swallow its packets.
    """
    base = f"net/ipv6/conf/{veth.ifname}/"
    settings = {base + "accept_ra": "0", base + "accept_dad": "0", base + "dad_transmits": "0", base + "accept_redirects": "0"}
    if any(":" in address for address in veth.ips):
        settings[base + "disable_ipv6"] = "0"
    return settings
