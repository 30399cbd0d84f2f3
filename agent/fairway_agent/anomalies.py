"""What is odd about the cluster's Pods, one by one: two with one address, and addresses this node cannot have given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address, ip_network

from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.model import Pod
from fairway_core.world import ATTACHMENT_POD, POD_IP, World

CONFLICT, FOREIGN = "pod-ip", "pod-range"


class PodAnomalies:
    """Follows the world; each oddity is an open problem that blocks nothing, until it is over."""

    def __init__(self, node: str, pod_cidrs: Sequence[str], problems: Problems) -> None:
        self._node = node
        self._ranges = tuple(map(ip_network, pod_cidrs))
        self._problems = problems
        self._shown: set[tuple[str, Key]] = set()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Look at the pods that changed, and at those that share an address with them, before or now."""
        changed = [key for key in touched if key.kind == "Pod"]
        for key in {*changed, *_sharing(before, after, changed)}:
            item = after.get(key)
            self._show(CONFLICT, key, conflict(after, key, item) if isinstance(item, Pod) else "")
            self._show(FOREIGN, key, self._foreign(after, item) if isinstance(item, Pod) else "")

    def _show(self, kind: str, key: Key, text: str) -> None:
        if text:
            self._shown.add((kind, key))
            self._problems.report(f"{kind}:{key}", text, blocking=False)
        elif (kind, key) in self._shown:
            self._shown.discard((kind, key))
            self._problems.clear(f"{kind}:{key}")

    def _foreign(self, world: World, pod: Pod) -> str:
        """Attachments of ours may have addresses of a network's own ranges; others must be of the node's."""
        meta = pod.meta
        if pod.node_name != self._node or not pod.on_pod_network or world.keys_at(ATTACHMENT_POD, meta.namespace, meta.name):
            return ""
        outside = [ip for ip in pod.ips if not any(ip_address(ip) in known for known in self._ranges)]
        if not outside:
            return ""
        return (
            f"Pod/{meta.namespace}/{meta.name} has {', '.join(outside)}, outside this node's podCIDRs: it was attached by others"
        )


def _sharing(before: World, after: World, changed: Iterable[Key]) -> Iterator[Key]:
    """Who has an address now that a changed pod has, or had."""
    for key in changed:
        for world in (before, after):
            item = world.get(key)
            for ip in item.ips if isinstance(item, Pod) else ():
                found = after.keys_at(POD_IP, ip)
                if len(found) > 1 or world is before:
                    yield from found


def conflict(world: World, key: Key, pod: Pod) -> str:
    """In words, if another pod holds one of its addresses. A pod on its way out may share it with its successor."""
    for ip in pod.ips:
        if len(world.keys_at(POD_IP, ip)) < 2:
            continue
        holder = world.pod_of_ip(ip)
        if holder is not None and holder is not pod and not pod.terminating and pod.on_pod_network:
            whose = holder.meta.key("Pod")
            return f"{key} and {whose} both have the address {ip}: rules take it for {whose}"
    return ""
