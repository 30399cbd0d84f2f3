"""Which pod ranges belong to which node: what routes, masquerade and reports agree on. Pure.

A node object is written by its kubelet or by a controller, and one wrong range would draw other nodes' traffic. So ranges are
claims: one that overlaps an older claim is named, and nobody acts on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network

from fairway_core.model import Node, family_of

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """A pod range of another node, and the node's own address of that family; empty if it has none."""

    cidr: str
    gateway: str
    node: str


@dataclass(frozen=True, slots=True)
class Claims:
    """Ranges that are obeyed, and what is wrong with the others, by node."""

    peers: tuple[Peer, ...] = ()
    faults: tuple[tuple[str, str], ...] = ()

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The ranges of all other nodes."""
        return tuple(peer.cidr for peer in self.peers)


class _Taken:
    """Ranges with their holders. Asking costs the number of different prefix lengths, however many ranges there are."""

    def __init__(self, networks: Iterable[Network]) -> None:
        """`networks`: all that will ever be put or asked for; their lengths are what is looked up."""
        self._lengths = {(network.version, network.prefixlen) for network in networks}
        self._exact: dict[Network, str] = {}
        self._above: dict[Network, str] = {}

    def put(self, network: Network, holder: str) -> None:
        self._exact.setdefault(network, holder)
        for above in self._supernets(network):
            self._above.setdefault(above, holder)

    def holder(self, network: Network) -> str:
        """Who holds a range that overlaps `network`; empty if nobody does."""
        containing = (self._exact.get(above, "") for above in self._supernets(network))
        return self._above.get(network) or next(filter(None, containing), "")

    def _supernets(self, network: Network) -> Iterator[Network]:
        """`network` and what contains it, at the lengths in use."""
        for version, length in self._lengths:
            if version == network.version and length <= network.prefixlen:
                yield network.supernet(new_prefix=length)


def claims(nodes: Iterable[Node], here: str, own: Sequence[str], reserved: Sequence[str] = ()) -> Claims:
    """The ranges of all nodes but `here`, whose ranges are `own`; `reserved` are those of services.

    Promise: accepted ranges overlap neither each other nor `own` nor `reserved`, and contain no node's address. Of two claims
    to one range the older node's is obeyed, then the one first by name; the result depends on the set of nodes alone.
    """
    known = sorted(nodes, key=lambda node: (node.created, node.meta.name))
    fixed = [(ip_network(cidr), f"this node's {cidr}") for cidr in own]
    fixed += [(ip_network(cidr), f"the service range {cidr}") for cidr in reserved]
    fixed += [(ip_network(ip), f"the address {ip} of node {node.meta.name}") for node in known for ip in node.internal]
    wanted = [(node, cidr, ip_network(cidr)) for node in known if node.meta.name != here for cidr in node.pod_cidrs]
    taken = _Taken([*(network for network, _ in fixed), *(network for _, _, network in wanted)])
    for network, holder in fixed:
        taken.put(network, holder)
    peers: list[Peer] = []
    faults: list[tuple[str, str]] = []
    for node, cidr, network in wanted:
        holder = taken.holder(network)
        if holder:
            faults.append((node.meta.name, f"its pod range {cidr} overlaps {holder} and is not used"))
        else:
            taken.put(network, f"{cidr} of node {node.meta.name}")
            peers.append(Peer(cidr, _gateway(node, network), node.meta.name))
    return Claims(tuple(sorted(peers)), tuple(sorted(faults)))


def _gateway(node: Node, network: Network) -> str:
    return next((ip for ip in node.internal if family_of(ip) == network.version), "")
