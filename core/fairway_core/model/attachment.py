"""A container interface that Fairway made, and everything needed to recognise, check, repair and remove it."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta


@dataclass(frozen=True, slots=True)
class Attachment:
    """Keyed by (network, container id, interface name) as CNI defines an attachment (spec 1.1.0, section 2).

    `ips` are addresses without prefix length (/32 and /128 are implied). `boot_id` is the kernel's at the time of ADD, so that
    a reboot is noticed; `netns_id` is "device:inode" of the namespace, so that a reused path is noticed. `confirmed` becomes
    true after the wiring is done: an ADD retried before that cleans up first. `pod_declared` tells that the Pod object existed
    before and must outlive the attachment.
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
