"""Links as data, and the contract of what carries them out. Pure: no I/O.

Ownership (design rule 4): our bridges are called `fw-…`, our veth host ends `fwb…` (bridged) or `fwr…` (routed) with an alias,
our routes have protocol number 157, our addresses on the loopback device carry the label `lo:fairway` (IPv6 addresses have no
label; ours are marked by the metric 157).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

ROUTE_PROTOCOL = 157
VETH_GROUP = 0x66770001
"""Interface group that marks our veths."""
ALIAS_PREFIX = "fairway "
LOOPBACK_LABEL = "lo:fairway"
GATEWAY4 = "169.254.1.1"
GATEWAY6 = "fe80::1"


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge of one network. `mac` is fixed for its life; `addresses` in prefix form ("169.254.1.1/32", "fe80::1/64")."""

    name: str
    mac: str
    addresses: tuple[str, ...] = ()
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class Shape:
    """Rate limits in bits per second, bursts in bits; rate 0 is no limit. Ingress is towards the container."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0


@dataclass(frozen=True, slots=True)
class Veth:
    """One container interface and everything on both sides of it.

    `master` is the bridge whose isolated port the host end becomes; None in routed mode, where the host end itself has the MAC
    `host_mac` (and no address: the container's permanent neighbour is enough). Inside: lo up, `ips` as /32 and /128, default
    routes through the on-link gateways of those families with permanent neighbours to `host_mac` (in bridged mode the bridge's
    MAC), accept_ra and DAD off, `mac`. On the node: one route per address (protocol 157) and one permanent neighbour per address
    to `mac`, on the bridge or veth.
    `alias` is written as ifalias: "fairway network=N pod=NS/NAME id=CONTAINER". `routes` (CIDRs) go through the same gateways;
    `sysctls` (names with slashes) are set inside, KernelError(ENOENT) if the kernel lacks one; with `loopback` the node may send
    from 127.0.0.0/8 to it, for ports that the node forwards.
    """

    host_ifname: str
    netns: str
    ifname: str
    mac: str
    ips: tuple[str, ...]
    mtu: int
    alias: str
    host_mac: str
    master: str | None = None
    routes: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    shape: Shape = Shape()
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class ObservedVeth:
    """A veth host end of ours as found on the node."""

    host_ifname: str
    ifindex: int
    alias: str
    master: str | None
    up: bool
    mac: str
    mtu: int


@dataclass(frozen=True, slots=True)
class NodeLinks:
    """All link state of ours on the node. `routes` maps destination address (no prefix length) to device name."""

    bridges: frozenset[str]
    veths: tuple[ObservedVeth, ...]
    routes: tuple[tuple[str, str], ...]
    neighbours: tuple[tuple[str, str, str], ...]
    """(address, MAC, device) of permanent neighbours on our devices."""
    loopback: frozenset[str]
    """Our addresses on lo, without prefix length."""
    shapes: tuple[tuple[str, str, int], ...] = ()
    """(device, discipline, bytes per second) of rate limits: see `fairway_kernel.link.shaping`."""
    redirectors: frozenset[str] = frozenset()
    """Our ifb devices."""


@dataclass(frozen=True, slots=True)
class InsideState:
    """What the container's side looks like, for CHECK. `exists` False: no such interface there."""

    exists: bool
    up: bool = False
    mac: str = ""
    mtu: int = 0
    ips: tuple[str, ...] = ()
    default_routes: tuple[str, ...] = ()
    """Gateways of the default routes through this interface."""
    peer_ifindex: int = 0


@dataclass(frozen=True, slots=True)
class FarEnd:
    """The container's end of a veth: a path of its namespace, its name there, and what it looks like."""

    netns: str
    ifname: str
    inside: InsideState


@dataclass(frozen=True, slots=True)
class PeerRoutes:
    """What `ensure_peer_routes` did: routes added or removed, and why wanted ones are not there, by CIDR."""

    changed: int = 0
    refused: Mapping[str, str] = field(default_factory=dict)


class PreparedLink(Protocol):
    """A pair that is configured on both sides, but whose host end is down: nothing passes. Blocking; one call at a time."""

    def connect(self) -> None:
        """Bring the host end up, add routes and neighbours: when it returns, the first packet either way gets through.

        Raises KernelError, and leaves nothing behind then.
        """

    def close(self) -> None:
        """Release what the making held; the pair stays as it is. Idempotent."""


class LinkManager(Protocol):
    """Promise: each call is idempotent unless said otherwise; blocking, for worker threads. Raises KernelError."""

    def ensure_bridge(self, bridge: Bridge) -> None:
        """Create or correct the bridge: MAC, addresses, MTU, up."""

    def delete_bridge(self, name: str, mac: str = "") -> None:
        """Remove it; a missing one is no error. With `mac` one that has another address is somebody else's and stays."""

    def ensure_loopback(self, addresses: Sequence[str]) -> None:
        """Exactly these addresses of ours on lo (/32, /128), others of ours removed; lo up."""

    def ensure_service_routes(self, cidrs: Sequence[str]) -> None:
        """On a node without a default route (per family), a route for each of `cidrs`, so that the node's own processes get as
        far as the rules that rewrite virtual IPs; ours that are not needed are removed."""

    def ensure_peer_routes(self, wanted: Mapping[str, str]) -> PeerRoutes:
        """Exactly these routes of ours to other nodes' containers: CIDR to gateway. A gateway that is not on a link of this node
        is refused; a route that somebody else has to a CIDR is left alone, and refuses ours if it leads elsewhere."""

    def prepare(self, veth: Veth) -> PreparedLink:
        """Make the pair and configure both sides, so that connecting is all that is left. A leftover host end of the same name is
        replaced.

        Raises KernelError(EEXIST) if `ifname` exists in the container, ENOENT or EINVAL if the namespace is gone, EINVAL if it
        is the node's own; leaves nothing behind when it fails.
        """

    def attach(self, veth: Veth) -> None:
        """`prepare`, then connect."""

    def ensure_node_side(self, veth: Veth) -> None:
        """Put back port membership, routes, neighbours, rate limits and up state of an existing veth. Raises KernelError(ENODEV)
        if it or its bridge is gone."""

    def detach(self, host_ifname: str, ips: Sequence[str]) -> None:
        """Remove the veth, its routes, neighbours and rate limits; missing ones are no error. Returns when the peer is gone from
        the container, so that an immediate `attach` of the same name succeeds. Concurrent calls are coalesced."""

    def unplug(self, host_ifname: str, ips: Sequence[str], netns: str, ifname: str) -> bool:
        """Cut a container off at once, before `detach`, which takes ten times as long: routes and neighbours gone, both ends
        down, the container's end under another name, so that an `attach` of the same name succeeds. False if that cannot be
        done (link or namespace are gone, or not what they were); nothing but `detach` helps then. Never raises."""

    def inside(self, netns: str, ifname: str) -> InsideState:
        """Look into the container. Raises KernelError(ENOENT) if the namespace is gone."""

    def trace(self, host_ifnames: Sequence[str]) -> Mapping[str, FarEnd]:
        """The containers' ends of these veths, by host end; left out is what is not there, or in a namespace that no path
        below /run/netns or /proc leads to. Costs time in the number of processes: for repairs only."""

    def read(self) -> NodeLinks:
        """Everything of ours on the node. Costs time in the number of links: start, drift and tests only."""

    def default_mtu(self) -> int:
        """MTU of the device the default route uses, or of the route if it has its own; 1500 without one. Never blocks."""

    def close(self) -> None:
        """Release sockets."""
