"""Containers that the store does not know, or knows from before they were attached anew: a lost or an old state file.

The kernel still has their links. Who a container is stands in the link's alias, and the link's name is the digest of it; the
addresses are those that the node's own permanent neighbours lead to through this link. What is seen inside the container
decides about its interface's name only: a container may be able to change the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from fairway_cni import plan
from fairway_cni.alias import read_alias
from fairway_cni.claims import AddressHeld, Claims
from fairway_cni.control import Control
from fairway_cni.documents import Said, pod_key
from fairway_cni.netconf import BRIDGE, ROUTED
from fairway_cni.plan import Identity
from fairway_cni.records import Records
from fairway_cni.wires import Kernel, Wires
from fairway_cni.work import WorkThreads
from fairway_core.errors import FairwayError, KernelError, UserError
from fairway_core.model import Attachment, Meta, Pod
from fairway_kernel.link.objects import FarEnd, NodeLinks, ObservedVeth

UNKNOWN = ("aliases", "host ports", "rate limits", "routes", "kernel settings", "address plugin")
"""What no link tells. Limits go on working, and nobody puts them back if they are removed."""


def neighbours_of(veth: ObservedVeth, node: NodeLinks) -> frozenset[tuple[str, str]]:
    """(address, MAC) of what the node reaches through this link.

    On a bridge the port's own MAC is the container's but for the first octet (`fairway_kernel.link.wiring.port_mac`).
    """
    said = read_alias(veth.alias)
    bridged = veth.host_ifname.startswith("fwb")
    device = plan.bridge_name(said.network) if bridged and said else veth.host_ifname
    return frozenset(
        (ip, mac) for ip, mac, name in node.neighbours if name == device and (not bridged or mac[2:] == veth.mac[2:])
    )


def is_replaced(item: Attachment, veth: ObservedVeth, node: NodeLinks) -> bool:
    """Whether the link was made for other addresses than those on record: the node reaches some through it, but none of those."""
    reached = neighbours_of(veth, node)
    return bool(reached) and not any((ip, item.mac) in reached for ip in item.ips)


def rebuild(veth: ObservedVeth, end: FarEnd | None, node: NodeLinks, boot_id: str, netns_id: str) -> Attachment:
    """The attachment behind a link. Raises UserError that tells why there is none to be made out."""
    said = read_alias(veth.alias)
    if said is None:
        raise UserError("its alias does not tell whose it is")
    if end is None:
        raise UserError("no path leads to its container's namespace")
    who = Identity(said.network, said.container_id, end.ifname)
    if who.digest != veth.host_ifname[3:]:
        raise UserError(f"its name is not that of {end.ifname} of {said.container_id}")
    ips = sorted((ip for ip, mac in neighbours_of(veth, node) if mac == end.inside.mac), key=lambda ip: (":" in ip, ip))
    if not ips:
        raise UserError("the node reaches no address through it")
    return Attachment(
        meta=Meta(who.object_name),
        network=said.network,
        container_id=said.container_id,
        ifname=end.ifname,
        netns=end.netns,
        pod_namespace=said.pod_namespace,
        pod_name=said.pod_name,
        host_ifname=veth.host_ifname,
        mac=end.inside.mac,
        ips=tuple(ips),
        mode=BRIDGE if veth.host_ifname.startswith("fwb") else ROUTED,
        mtu=veth.mtu,
        boot_id=boot_id,
        netns_id=netns_id,
        confirmed=True,
        masquerade=said.masquerade,
        search_completion=said.search_completion,
        adopted=True,
    )


@dataclass(frozen=True, slots=True)
class Found:
    """What can be taken over, and of the rest why it cannot; both by the name of the link."""

    attachments: Mapping[str, Attachment]
    reasons: Mapping[str, str]


def look(names: Collection[str], node: NodeLinks, kernel: Kernel, boot_id: str) -> Found:
    """Look for the containers of these links. Blocking; costs time in the processes of the node. Raises KernelError."""
    ends = kernel.links.trace(sorted(names)) if names else {}
    attachments, reasons = {}, {}
    # In the order in which they were attached: of two interfaces of a pod the newer one has the Pod object.
    for veth in sorted(node.veths, key=lambda item: item.ifindex):
        if veth.host_ifname not in names:
            continue
        end = ends.get(veth.host_ifname)
        try:
            netns_id = kernel.identify(end.netns) if end else ""
            attachments[veth.host_ifname] = rebuild(veth, end, node, boot_id, netns_id)
        except (UserError, KernelError) as fault:
            reasons[veth.host_ifname] = str(fault)
    return Found(attachments, reasons)


class Adopter:
    """Takes containers over. The caller holds the lock of the attachment."""

    def __init__(
        self, control: Control, records: Records, wires: Wires, claims: Claims, threads: WorkThreads, log: logging.Logger
    ) -> None:
        self._control = control
        self._records = records
        self._wires = wires
        self._claims = claims
        self._threads = threads
        self._log = log

    async def adopt(self, found: Attachment) -> list[Exception]:
        """Record a container as `rebuild` made it out; the errors met. Nothing is changed after an error but what is repaired.

        A record that is there already gives what the kernel does not know, unless it is the newer one.
        """
        known = self._records.find(plan.identity_of(found))
        if known is not None and self._records.made_here(known):
            return []
        if not await self._threads.run(self._wires.alive, found):
            return []
        attachment = _merged(found, known)
        try:
            taken = self._claims.take_over(attachment)
        except AddressHeld as fault:
            return [fault]
        errors: list[Exception] = []
        try:
            await self._record(attachment, known)
        except TimeoutError as fault:
            errors.append(fault)  # It is stored.
        except FairwayError as fault:
            self._claims.drop(taken, attachment)
            return [fault]
        self._records.taken_over(attachment)
        self._claims.drop(set(known.ips) - set(attachment.ips) if known else (), attachment)
        try:
            # Links of dead attachments may have taken routes with them on their way out.
            await self._threads.run(self._wires.mend, attachment)
        except FairwayError as fault:
            errors.append(fault)
        return errors

    async def _record(self, attachment: Attachment, known: Attachment | None) -> None:
        pod = self._control.world().get(pod_key(attachment))
        said = Said(pod.meta.labels, pod.meta.annotations, pod.meta.uid) if isinstance(pod, Pod) else Said()
        _, revision = await self._records.declare(attachment, said, known)
        await self._control.named(revision)
        self._log.warning(
            "container %s (%s/%s, %s) was attached, but not recorded, and is taken over; not known of it: %s",
            attachment.container_id,
            attachment.pod_namespace,
            attachment.pod_name,
            ", ".join(attachment.ips),
            ", ".join([*(() if pod else ("labels", "annotations")), *UNKNOWN]) if attachment.adopted else "nothing",
        )


def _merged(found: Attachment, known: Attachment | None) -> Attachment:
    """The record as it must be: what the runtime said once holds for the container's next start as well."""
    if known is None:
        return found
    return replace(
        known,
        netns=found.netns,
        netns_id=found.netns_id,
        host_ifname=found.host_ifname,
        mac=found.mac,
        ips=found.ips,
        mode=found.mode,
        mtu=found.mtu,
        boot_id=found.boot_id,
        confirmed=True,
    )
