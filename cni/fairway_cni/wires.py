"""The links of attachments: what `fairway_cni.attach` asks of the kernel. Blocking, for worker threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from fairway_cni import faults, plan
from fairway_cni.faults import CniError
from fairway_cni.netconf import BRIDGE, CHAINED
from fairway_cni.plan import NodeFacts
from fairway_core.errors import KernelError
from fairway_core.model import Attachment, HostPort
from fairway_kernel.link.objects import Bridge, LinkManager, PreparedLink


@dataclass(frozen=True, slots=True)
class Kernel:
    """What this component touches of the node. All blocking.

    `identify` gives "device:inode" of the namespace at a path and raises KernelError if there is none; `flush` forgets tracked
    connections of addresses; `flush_ports` forgets UDP senders that were served by nobody, or by another, at these ports.
    """

    links: LinkManager
    identify: Callable[[str], str]
    flush: Callable[[Sequence[str]], None]
    flush_ports: Callable[[Sequence[HostPort]], None]


@dataclass(frozen=True, slots=True)
class Target:
    """The namespace to attach, and the MTU to use there."""

    netns_id: str
    mtu: int


class Wiring:
    """The link of one attachment in the making: `prepare`, then `connect`. Blocking; nothing passes before `connect`.

    Both raise KernelError and leave no link behind then.
    """

    def __init__(self, make: Callable[[], PreparedLink | None]) -> None:
        self._make = make
        self._link: PreparedLink | None = None

    def prepare(self) -> None:
        """Bridge, pair, both sides, but for the node's end coming up."""
        self._link = self._make()

    def connect(self) -> None:
        """Let packets pass."""
        if self._link is not None:
            self._link.connect()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()


class Wires:
    """Link work for attachments. A bridge is looked after once and then taken to be there until something fails."""

    def __init__(self, kernel: Kernel, facts: NodeFacts) -> None:
        self._kernel = kernel
        self._links = kernel.links
        self._facts = facts
        self._bridges: set[Bridge] = set()
        self._bridge_lock = threading.Lock()
        self._users_lock = threading.Lock()
        self._users: Counter[str] = Counter()
        """How many calls are at work at each bridge."""

    def inspect(self, netns: str, mtu: int) -> Target:
        """Look at the target of an ADD, without blocking. Raises CniError if it is no namespace, or the node's own."""
        try:
            netns_id = self._kernel.identify(netns)
        except KernelError as fault:
            raise CniError(faults.ENVIRONMENT, f"CNI_NETNS: {netns} is no network namespace", str(fault)) from fault
        if netns_id == self._facts.host_netns:
            raise CniError(faults.HOST_NAMESPACE, f"CNI_NETNS: {netns} is the node's own network namespace")
        return Target(netns_id, mtu or self._facts.mtu or self._links.default_mtu())

    def alive(self, attachment: Attachment) -> bool:
        """Whether the container still has the interface that was made for it."""
        if attachment.boot_id != self._facts.boot_id:
            return False
        try:
            if self._kernel.identify(attachment.netns) != attachment.netns_id:
                return False
            inside = self._links.inside(attachment.netns, attachment.ifname)
        except KernelError:
            return False
        if attachment.mode == CHAINED:
            return inside.exists and set(attachment.ips) <= set(inside.ips)
        return inside.exists and inside.mac == attachment.mac

    @contextmanager
    def wiring(self, attachment: Attachment) -> Iterator[Wiring]:
        """The link of an attachment, to be made within the block; its bridge stays for as long."""
        with self._using_bridge(attachment), closing(Wiring(lambda: self._make(attachment))) as wiring:
            yield wiring

    def attach(self, attachment: Attachment) -> None:
        """Bridge, pair, both sides. Raises KernelError; leaves no link behind then."""
        with self.wiring(attachment) as wiring:
            wiring.prepare()
            wiring.connect()

    def _make(self, attachment: Attachment) -> PreparedLink | None:
        if attachment.mode == CHAINED:
            return None
        known = self._prepare(attachment)
        try:
            return self._links.prepare(plan.veth_of(attachment))
        except KernelError:
            self._bridges.clear()
            if not known:
                raise
            # The bridge may have gone since it was looked at; if it has not, the second failure tells the same.
            self._prepare(attachment)
            return self._links.prepare(plan.veth_of(attachment))

    def mend(self, attachment: Attachment) -> None:
        """Put back what is missing on the node's side of an existing link. Raises KernelError."""
        if attachment.mode == CHAINED:
            return
        with self._using_bridge(attachment):
            self._bridges.clear()
            self._prepare(attachment)
            self._links.ensure_node_side(plan.veth_of(attachment))

    def drop_bridge(self, name: str, is_needed: Callable[[], bool]) -> bool:
        """Remove a bridge of ours unless a call is at work there or `is_needed`; whether it is gone. Raises KernelError.

        Who comes to use it while it is being removed makes it anew.
        """
        with self._bridge_lock:
            if self._users[name] or is_needed():
                return False
            self._bridges = {bridge for bridge in self._bridges if bridge.name != name}
            self._links.delete_bridge(name, plan.GATEWAY_MAC)
        return True

    @contextmanager
    def _using_bridge(self, attachment: Attachment) -> Iterator[None]:
        name = plan.bridge_name(attachment.network)
        with self._users_lock:
            self._users[name] += 1
        try:
            yield
        finally:
            with self._users_lock:
                self._users[name] -= 1
                if not self._users[name]:
                    del self._users[name]

    def unplug(self, attachment: Attachment) -> bool:
        """Cut the container off so that only `detach` of a dead link remains to be done; whether that worked."""
        if attachment.mode == CHAINED or attachment.boot_id != self._facts.boot_id:
            return False
        try:
            if self._kernel.identify(attachment.netns) != attachment.netns_id:
                return False
        except KernelError:
            return False
        return self._links.unplug(attachment.host_ifname, attachment.ips, attachment.netns, attachment.ifname)

    def detach(self, attachment: Attachment) -> None:
        """Remove the link with its routes and neighbours. Raises KernelError."""
        if attachment.mode != CHAINED:
            self._links.detach(attachment.host_ifname, attachment.ips)

    def _prepare(self, attachment: Attachment) -> bool:
        """See to the bridge; whether it was taken to be there."""
        if attachment.mode != BRIDGE:
            return False
        bridge = plan.bridge_of(attachment)
        with self._bridge_lock:
            if bridge in self._bridges:
                return True
            self._links.ensure_bridge(bridge)
            self._bridges.add(bridge)
        return False
