"""Attachments and nodes to nftables: which addresses an interface may use, ports of the node, masquerade for what leaves. Pure.

Only interfaces called fwb* and fwr* are concerned. A frame or packet from one of them passes if interface, MAC and source
address are pinned together, and is dropped otherwise: an interface without a pin is closed from its first packet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_address, ip_network

from fairway_cni.hostports import hostport_layout, ports_of
from fairway_cni.netconf import BRIDGE as BRIDGED
from fairway_cni.netconf import CHAINED
from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model import Attachment, family_of
from fairway_core.peers import claims
from fairway_core.world import World
from fairway_kernel.nft.objects import BRIDGE, Chain, Elements, ElementValue, Layout, Range, SetDecl, Slot

MASQ_OWNER: Owner = ("masq",)

# Neighbours are permanent on both sides, so nothing of IPv6 neighbour discovery is needed from a container; an advertisement
# or a redirect is an attack or a mistake. Link-local chatter of the container's kernel is dropped without being counted.
_BRIDGED_RULES = (
    'iifname != "fwb*" accept',
    "ether type ip ip daddr 127.0.0.0/8 counter drop",
    "ether type ip iifname . ether saddr . ip saddr @pin_bridged4 accept",
    "iifname . ether saddr . arp saddr ip @pin_bridged4 iifname . arp saddr ether . arp saddr ip @pin_bridged4 accept",
    "icmpv6 type { nd-router-advert, nd-neighbor-advert, nd-redirect } counter drop",
    "icmpv6 type { nd-router-solicit, nd-neighbor-solicit } drop",
    "ether type ip6 iifname . ether saddr . ip6 saddr @pin_bridged6 accept",
    "ip6 saddr { ::, fe80::/10 } drop",
    'counter drop comment "not pinned"',
)
_ROUTED_RULES = (
    'iifname != "fwr*" accept',
    "ip daddr 127.0.0.0/8 counter drop",
    "iifname . ether saddr . ip saddr @pin_routed4 accept",
    "icmpv6 type { nd-router-advert, nd-neighbor-advert, nd-redirect } counter drop",
    "icmpv6 type { nd-router-solicit, nd-neighbor-solicit } drop",
    "iifname . ether saddr . ip6 saddr @pin_routed6 accept",
    "ip6 saddr { ::, fe80::/10 } drop",
    'counter drop comment "not pinned"',
)
_MASQ_RULES = (
    'oifname "lo" return',
    "ip saddr @masq_never4 return",
    "ip6 saddr @masq_never6 return",
    'oifname "fw-*" return',
    'oifname "fwr*" return',
    "ip saddr @masq_from4 ip daddr != @masq_inside4 counter masquerade fully-random",
    "ip6 saddr @masq_from6 ip6 daddr != @masq_inside6 counter masquerade fully-random",
)


def _pins(name: str, family: str) -> SetDecl:
    key = ("ifname", "ether_addr", "ipv4_addr" if family == "4" else "ipv6_addr")
    return SetDecl(name + family, key, table=BRIDGE) if name == "pin_bridged" else SetDecl(name + family, key)


LAYOUT = Layout(
    sets=(
        *(_pins(name, family) for name in ("pin_bridged", "pin_routed") for family in "46"),
        *(SetDecl(f"masq_never{family}", (f"ipv{family}_addr",)) for family in "46"),
        *(
            SetDecl(name + family, ("ipv4_addr" if family == "4" else "ipv6_addr",), flags=("interval",))
            for name in ("masq_from", "masq_inside")
            for family in "46"
        ),
    ),
    chains=(
        Chain("pin_bridged", _BRIDGED_RULES, "type filter hook prerouting priority -300; policy accept;", BRIDGE),
        Chain("pin_routed", _ROUTED_RULES, "type filter hook prerouting priority -300; policy accept;"),
        # After the services' own postrouting chain (100): what that one decided to masquerade is decided already.
        Chain("masq_postrouting", _MASQ_RULES, "type nat hook postrouting priority 110; policy accept;"),
    ),
)


def pins_of(attachment: Attachment) -> Elements:
    """The (interface, MAC, address) triples of one attachment; none for an interface that somebody else made."""
    if attachment.mode == CHAINED:
        return {}
    name = "pin_bridged" if attachment.mode == BRIDGED else "pin_routed"
    return {Slot(f"{name}{family_of(ip)}", (attachment.host_ifname, attachment.mac, ip)): () for ip in attachment.ips}


def ranges_of(set_name: str, cidrs: Iterable[str]) -> dict[Slot, ElementValue]:
    """The CIDRs as disjoint closed ranges of `set_name`4 and `set_name`6: interval sets refuse what overlaps."""
    networks = [ip_network(cidr, strict=False) for cidr in cidrs]
    found: dict[Slot, ElementValue] = {}
    merged: list[IPv4Network | IPv6Network] = [
        *collapse_addresses(net for net in networks if isinstance(net, IPv4Network)),
        *collapse_addresses(net for net in networks if isinstance(net, IPv6Network)),
    ]
    for net in merged:
        # No network and broadcast arithmetic: a /32 is the range from itself to itself.
        found[Slot(f"{set_name}{net.version}", (Range(str(net[0]), str(net[-1])),))] = ()
    return found


class PinCompiler:
    """nft compiler of this component; see `fairway_kernel.nft.compiler.Compiler` for the promise.

    Owners: ("pin", attachment name), and ("masq",) for the CIDRs of this node and of all nodes together. An update costs time in
    the attachments it concerns; a change of a Node costs time in the number of nodes.
    """

    def __init__(self, pod_cidrs: Sequence[str], never: Sequence[str] = ()) -> None:
        """`pod_cidrs` of this node; what goes to `never` keeps its address, as what goes to other nodes' pods does."""
        self._pod_cidrs = tuple(pod_cidrs)
        self._never = tuple(never)
        self._networks = [ip_network(cidr, strict=False) for cidr in pod_cidrs]
        self._layout = LAYOUT + hostport_layout(pod_cidrs)
        self._started = False

    @property
    def layout(self) -> Layout:
        return self._layout

    def learn(self, actual: Elements) -> None:
        """Nothing to learn: no element carries a number of ours."""

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        owners: dict[Owner, Elements] = {}
        for key in touched:
            if key.kind == "Attachment":
                value = after.get(key)
                found = value if isinstance(value, Attachment) else None
                owners["pin", key.name] = {**pins_of(found), **ports_of(found), **self._exceptions(found)} if found else {}
        if not self._started or any(key.kind == "Node" for key in touched):
            owners[MASQ_OWNER] = self._masquerade(after)
            self._started = True
        return owners

    def _exceptions(self, attachment: Attachment) -> Elements:
        """Addresses that the rule for whole networks would get wrong: not to be masqueraded, or ours from outside podCIDRs."""
        if not attachment.masquerade:
            return {Slot(f"masq_never{family_of(ip)}", (ip,)): () for ip in attachment.ips}
        foreign = (ip for ip in attachment.ips if not any(ip_address(ip) in network for network in self._networks))
        return {Slot(f"masq_from{family_of(ip)}", (Range(ip, ip),)): () for ip in foreign}

    def _masquerade(self, world: World) -> Elements:
        # A claim that nobody obeys must not switch masquerading off for what it covers either.
        inside = claims(world.nodes(), "", self._pod_cidrs).cidrs
        return {**ranges_of("masq_from", self._pod_cidrs), **ranges_of("masq_inside", [*self._pod_cidrs, *self._never, *inside])}
