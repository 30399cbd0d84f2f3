"""CHECK as a comparison of values. Pure.

Later plugins of a chain may add addresses and routes; those are tolerated. The MAC may not change, because it is pinned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairway_cni import plan
from fairway_cni.netconf import BRIDGE, CHAINED
from fairway_core.model import Attachment, family_of
from fairway_kernel.link.objects import GATEWAY4, GATEWAY6, InsideState, NodeLinks
from fairway_kernel.link.shaping import wanted_shapes


class NodeIndex:
    """What `NodeLinks` lists, to be asked for one attachment after the other."""

    def __init__(self, node: NodeLinks) -> None:
        self.veths = {veth.host_ifname: veth for veth in node.veths}
        self.routes = frozenset(node.routes)
        self.neighbours = frozenset(node.neighbours)
        self.shapes = frozenset(node.shapes)


def differences(attachment: Attachment, inside: InsideState, node: NodeLinks, previous: Mapping[str, Any] | None) -> list[str]:
    """What is wrong, one text each; empty if the attachment is as it was made. `previous` is CNI's prevResult."""
    if attachment.mode == CHAINED:
        found = [*_inside_chained(attachment, inside)]
    else:
        found = [*_inside(attachment, inside), *_on_node(attachment, NodeIndex(node))]
    return [*found, *_told(attachment, previous or {})]


def _told(attachment: Attachment, previous: Mapping[str, Any]) -> Iterator[str]:
    """What the runtime believes to be there, where it says so; more than ours may be of later plugins."""
    known = {ip.partition("/")[0] for ip in _addresses(previous)}
    if known and not known >= set(attachment.ips):
        yield f"prevResult has {', '.join(sorted(known))}, attached is {', '.join(attachment.ips)}"
    names = [item.get("name") for item in _objects(previous.get("interfaces"))]
    if names and attachment.ifname not in names:
        yield f"prevResult has no interface {attachment.ifname}"


def _inside(attachment: Attachment, inside: InsideState) -> Iterator[str]:
    where = f"{attachment.ifname} in the container"
    if not inside.exists:
        yield f"{where} is missing"
        return
    if not inside.up:
        yield f"{where} is down"
    if inside.mac != attachment.mac:
        yield f"{where} has MAC {inside.mac}, pinned is {attachment.mac}"
    for ip in attachment.ips:
        gateway = GATEWAY6 if family_of(ip) == 6 else GATEWAY4
        if ip not in inside.ips:
            yield f"{where} lacks address {ip}"
        elif gateway not in inside.default_routes:
            yield f"{where} lacks the default route through {gateway}"


def _inside_chained(attachment: Attachment, inside: InsideState) -> Iterator[str]:
    """Whose interface it is sees to the rest; rules and names depend on the addresses."""
    where = f"{attachment.ifname} in the container"
    if not inside.exists:
        yield f"{where} is missing"
        return
    for ip in attachment.ips:
        if ip not in inside.ips:
            yield f"{where} lacks address {ip}"


def _on_node(attachment: Attachment, node: NodeIndex) -> Iterator[str]:
    if attachment.host_ifname not in node.veths:
        yield f"link {attachment.host_ifname} is missing on the node"
        return
    yield from faults_on_node(attachment, node)


def faults_on_node(attachment: Attachment, node: NodeIndex) -> Iterator[str]:
    """What is wrong on the node's side of a link that exists."""
    bridge = plan.bridge_name(attachment.network) if attachment.mode == BRIDGE else None
    device = bridge or attachment.host_ifname
    veth = node.veths[attachment.host_ifname]
    if not veth.up:
        yield f"link {veth.host_ifname} is down"
    if veth.master != bridge:
        yield f"link {veth.host_ifname} is a port of {veth.master}, should be of {bridge}"
    for ip in attachment.ips:
        if (ip, device) not in node.routes:
            yield f"the node has no route to {ip} through {device}"
        if (ip, attachment.mac, device) not in node.neighbours:
            yield f"the node has no permanent neighbour {ip} at {attachment.mac} on {device}"

    for (name, kind), rate in wanted_shapes(attachment.host_ifname, plan.shape_of(attachment)).items():
        if (name, kind, rate) not in node.shapes:
            yield f"the limit of {8 * rate} bit/s on {name} is missing" if rate else f"{name} is not limited: no redirection"


def _addresses(previous: Mapping[str, Any]) -> Iterator[str]:
    for item in _objects(previous.get("ips")):
        if isinstance(item.get("address"), str):
            yield item["address"]


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of a list; of anything else none, for what another plugin wrote is not ours to judge."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
