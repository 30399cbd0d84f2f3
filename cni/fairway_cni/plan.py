"""Names and link specifications of attachments. Pure: the same attachment gives the same plan on every node, at every time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from fairway_cni.alias import alias_of
from fairway_cni.hostports import needs_loopback
from fairway_cni.ipam import mac_of
from fairway_cni.netconf import BRIDGE, CHAINED, ROUTED, Dns
from fairway_core.keys import Key
from fairway_core.model import Attachment, family_of
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6, Bridge, Shape, Veth

GATEWAY_MAC = mac_of(GATEWAY4)
"""The MAC of every gateway a container sees: all bridges and, in routed mode, all host ends. They never share a segment."""

RECENT = 4096
"""Identities whose names are remembered: an ADD asks for them a dozen times."""

_PREFIX = {BRIDGE: "fwb", ROUTED: "fwr", CHAINED: "fwc"}
_UNSAFE = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What an attachment takes from its node. `host_netns` is "device:inode"; `mtu` 0 means the default route's device."""

    node: str
    boot_id: str
    host_netns: str
    mtu: int = 0
    cluster_domain: str = "cluster.local"
    nameservers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """What CNI keys an attachment by (spec 1.1.0, section 2)."""

    network: str
    container_id: str
    ifname: str

    @property
    def digest(self) -> str:
        """44 bits of SHA-256, in hex: fits an interface name beside a prefix of three letters."""
        return _digest(self.network, self.container_id, self.ifname)

    @property
    def object_name(self) -> str:
        """A DNS name for the Attachment object: readable in front, unique by the digest."""
        return _object_name(self.network, self.container_id, self.ifname)

    @property
    def key(self) -> Key:
        return Key("Attachment", "", self.object_name)

    def host_ifname(self, mode: str) -> str:
        """The name of the veth's end on the node; of a chained attachment a name that no link has."""
        return _PREFIX[mode] + self.digest


@lru_cache(RECENT)
def _digest(*identity: str) -> str:
    return hashlib.sha256("\0".join(identity).encode()).hexdigest()[:11]


@lru_cache(RECENT)
def _object_name(network: str, container_id: str, ifname: str) -> str:
    parts = (network[:24], container_id[:12], ifname)
    readable = "-".join(filter(None, (dns_safe(part) for part in parts)))
    return f"{readable}-{_digest(network, container_id, ifname)}"


def identity_of(attachment: Attachment) -> Identity:
    """The identity an attachment was made for."""
    return Identity(attachment.network, attachment.container_id, attachment.ifname)


def dns_safe(text: str) -> str:
    """`text` as a DNS label sequence: lower case, everything else a dash; may be empty."""
    return _UNSAFE.sub("-", text.lower()).strip("-")


def bridge_name(network: str) -> str:
    """`fw-NETWORK`; a network whose name does not fit an interface name gets a digest in place of its end."""
    if len(network) <= 12:
        return f"fw-{network}"
    return f"fw-{network[:5]}-{hashlib.sha256(network.encode()).hexdigest()[:6]}"


def bridges(attachments: Iterable[Attachment]) -> frozenset[str]:
    """The bridges that these attachments need."""
    return frozenset(bridge_name(network) for network in {item.network for item in attachments if item.mode == BRIDGE})


def bridge_of(attachment: Attachment) -> Bridge:
    """The bridge of the attachment's network, with the gateways of the families in use."""
    families = {family_of(ip) for ip in attachment.ips}
    gateways = {4: f"{GATEWAY4}/32", 6: f"{GATEWAY6}/64"}
    addresses = tuple(gateways[family] for family in sorted(families))
    return Bridge(bridge_name(attachment.network), GATEWAY_MAC, addresses, attachment.mtu)


def veth_of(attachment: Attachment) -> Veth:
    """The container's interface and its node side."""
    return Veth(
        host_ifname=attachment.host_ifname,
        netns=attachment.netns,
        ifname=attachment.ifname,
        mac=attachment.mac,
        ips=attachment.ips,
        mtu=attachment.mtu,
        alias=alias_of(attachment),
        host_mac=GATEWAY_MAC,
        master=bridge_name(attachment.network) if attachment.mode == BRIDGE else None,
        routes=attachment.routes,
        sysctls=attachment.sysctls,
        shape=shape_of(attachment),
        loopback=needs_loopback(attachment),
    )


def shape_of(attachment: Attachment) -> Shape:
    """The rate limits of the interface."""
    limits = attachment.bandwidth
    return Shape(limits.ingress_rate, limits.ingress_burst, limits.egress_rate, limits.egress_burst)


def resolver_of(facts: NodeFacts, namespace: str) -> Dns:
    """Resolver settings of a container in `namespace`: what kubelet writes for ClusterFirst."""
    if not facts.nameservers:
        return Dns()
    domain = facts.cluster_domain
    return Dns(facts.nameservers, (f"{namespace}.svc.{domain}", f"svc.{domain}", domain), ("ndots:5",))
