"""A container interface that Fairway made, and everything needed to recognise, check, repair and remove it."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port of the node that leads to the container. `protocol` is tcp, udp or sctp; `host_ip` empty: every local address."""

    protocol: str
    host_port: int
    container_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Limits in bits per second and bits; rate 0 is no limit. Ingress is towards the container."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0

    def __bool__(self) -> bool:
        return bool(self.ingress_rate or self.egress_rate)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Keyed by (network, container id, interface name) as CNI defines an attachment (spec 1.1.0, section 2).

    `ips` are addresses without prefix length (/32 and /128 are implied). `boot_id` is the kernel's at the time of ADD, so that
    a reboot is noticed; `netns_id` is "device:inode" of the namespace, so that a reused path is noticed. `confirmed` becomes
    true after the wiring is done: an ADD retried before that cleans up first. `pod_declared` tells that the Pod object existed
    before and must outlive the attachment.

    `mode` is bridge, routed or chained (somebody else made the interface). `routes` are destinations reached through this
    interface besides the default; `sysctls` were set inside; `delegate` is what the address plugin must be told at the end, as
    JSON, empty if the addresses are ours. `search_completion`: whether the DNS server may go through its search path for it.
    `adopted`: recorded from what the kernel has, not by an ADD, so that only what a link tells is known.
    """

    meta: Meta
    network: str
    container_id: str
    ifname: str
    netns: str
    pod_namespace: str
    pod_name: str
    host_ifname: str
    mac: str
    ips: tuple[str, ...]
    mode: str = "bridge"
    mtu: int = 1500
    boot_id: str = ""
    netns_id: str = ""
    confirmed: bool = False
    pod_declared: bool = False
    aliases: tuple[str, ...] = ()
    host_ports: tuple[HostPort, ...] = ()
    bandwidth: Bandwidth = Bandwidth()
    routes: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    masquerade: bool = True
    search_completion: bool = True
    delegate: str = ""
    adopted: bool = False
