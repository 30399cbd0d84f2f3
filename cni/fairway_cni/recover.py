"""What a crash, a reboot or a stranger left in disorder: decide (pure), then put in order.

Run at agent start, after the first world and before the first ADD, and from time to time afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fairway_cni import plan
from fairway_cni.adopt import is_replaced, look
from fairway_cni.attach import Attacher
from fairway_cni.check import NodeIndex, faults_on_node
from fairway_cni.claims import AddressHeld
from fairway_cni.control import Control
from fairway_cni.faults import CniError
from fairway_cni.netconf import CHAINED
from fairway_cni.protocol import parse
from fairway_cni.spool import Spool, SpooledCall
from fairway_cni.wires import Kernel
from fairway_core.errors import FairwayError, KernelError
from fairway_core.model import Attachment
from fairway_core.world import World
from fairway_kernel.link.objects import NodeLinks
from fairway_kernel.link.shaping import redirector_name

IDLE_SECONDS = 30.0
"""How long a bridge stays after the last container of its network."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What to do, each list in the order of the world."""

    remove: tuple[Attachment, ...] = ()
    rewire: tuple[Attachment, ...] = ()
    repair: tuple[Attachment, ...] = ()
    outdated: tuple[Attachment, ...] = ()
    """Records older than the links of their containers."""
    orphans: tuple[str, ...] = ()
    """Links without an attachment."""
    strays: tuple[str, ...] = ()
    """Addresses that are routed to containers but belong to none."""
    idle: tuple[str, ...] = ()
    """Bridges that no attachment needs. Not a fault: an ADD may come, so they go only after a while."""

    def __bool__(self) -> bool:
        return bool(self.remove or self.rewire or self.repair or self.outdated or self.orphans or self.strays)

    def leaving(self, at_work: Callable[[str], bool]) -> Recovery:
        """The same without links by whose name `at_work` holds: their order is the business of the call that is at work there."""
        remove, rewire, repair, outdated = (
            tuple(item for item in items if not at_work(item.host_ifname))
            for items in (self.remove, self.rewire, self.repair, self.outdated)
        )
        orphans = tuple(name for name in self.orphans if not at_work(name))
        return replace(self, remove=remove, rewire=rewire, repair=repair, outdated=outdated, orphans=orphans)


def decide(attachments: Sequence[Attachment], node: NodeLinks, alive: Mapping[str, bool], boot_id: str) -> Recovery:
    """Compare what should be with what is. `alive`: by attachment name, whether its path still leads to its namespace.

    Dead is what was made before the last boot, and what has neither link nor namespace. A link whose namespace cannot be found
    is kept: something else may hold the namespace open (a path in /proc dies with one process, the namespace with the last).
    Nor is one dead that was recorded before the last boot and has a link, for no link is older than the boot.
    An unconfirmed attachment without a link is an ADD that never ended; with a link it may be one whose answer was given.
    """
    index = NodeIndex(node)
    there = index.veths.keys()
    remove, rewire = [], []
    repair: list[Attachment] = []
    outdated: list[Attachment] = []
    for item in attachments:
        lives = alive.get(item.meta.name, False)
        # Of a chained attachment there is no link of ours to go by: its namespace decides.
        linked = lives if item.mode == CHAINED else item.host_ifname in there
        if item.mode != CHAINED and linked and item.boot_id != boot_id:
            outdated.append(item)
        elif item.boot_id != boot_id or (not linked and not (lives and item.confirmed)):
            remove.append(item)
        elif not linked:
            rewire.append(item)
        elif item.mode != CHAINED and any(faults_on_node(item, index)):
            (outdated if is_replaced(item, index.veths[item.host_ifname], node) else repair).append(item)
    owned = {item.host_ifname for item in attachments}
    # A redirection outlives the link that it was made for.
    lost = node.redirectors - {redirector_name(link) for link in there | owned}
    addresses = {ip for item in attachments for ip in item.ips}
    routed = {ip for ip, device in node.routes if device.startswith(("fw-", "fwr"))}
    orphans, strays = (there - owned) | lost, routed - addresses
    idle = node.bridges - plan.bridges(attachments)
    return Recovery(
        remove=tuple(remove), rewire=tuple(rewire), repair=tuple(repair), outdated=tuple(outdated),
        orphans=tuple(sorted(orphans)), strays=tuple(sorted(strays)), idle=tuple(sorted(idle)),
    )  # fmt: skip


class Recoverer:
    """Carries decisions out. Promise: one fault does not keep the rest from being put in order; every fault is logged."""

    def __init__(
        self,
        control: Control,
        kernel: Kernel,
        attacher: Attacher,
        spool: Spool,
        log: logging.Logger,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._control = control
        self._kernel = kernel
        self._attacher = attacher
        self._spool = spool
        self._log = log
        self._idle_seconds = idle_seconds
        self._idle: dict[str, float] = {}

    async def run(self) -> Recovery:
        """Replay spooled deletions, then recover; what was done. Costs time in the number of attachments and links."""
        await self.replay()
        # Links first: whatever they show is in the world read later, or a call is at work on it.
        node = await asyncio.to_thread(self._kernel.links.read)
        world = self._control.world()
        found = (await asyncio.to_thread(self._decide, world, node)).leaving(self._attacher.at_work)
        # The dead give their addresses up before the living are asked what they have.
        await self._all(self._attacher.bury(item) for item in found.remove)
        kept = await self._adopt(found, node)
        left = [item for item in found.outdated if item.host_ifname not in kept]
        theirs = {ip for item in kept.values() for ip in item.ips}
        await self._all(
            [
                *(self._attacher.bury(item) for item in left if item.boot_id != self._attacher.facts.boot_id),
                *(self._attacher.rewire(item) for item in found.rewire),
                *(self._attacher.repair(item) for item in (*found.repair, *left)),
                *(self._attacher.drop_orphan(name) for name in found.orphans if name not in kept),
                *(self._attacher.drop_stray(ip) for ip in found.strays if ip not in theirs),
                *(self._attacher.drop_bridge(name) for name in self._idle_long(found.idle)),
            ]
        )
        return found

    async def _adopt(self, found: Recovery, node: NodeLinks) -> Mapping[str, Attachment]:
        """Take over what is attached without a record or with an older one; whom to leave alone from now on, by link."""
        names = {*found.orphans, *(item.host_ifname for item in found.outdated)}
        seen = await asyncio.to_thread(look, names, node, self._kernel, self._attacher.facts.boot_id)
        for name, reason in seen.reasons.items():
            self._log.info("link %s is nobody's: %s", name, reason)
        kept = {}
        for name, attachment in seen.attachments.items():
            errors = await self._attacher.adopt(attachment)
            self._complain(errors)
            # A link whose address another container has must go; whom the store could not take is asked again.
            if not any(isinstance(fault, AddressHeld) for fault in errors):
                kept[name] = attachment
        return kept

    async def _all(self, work: Iterable[Awaitable[list[Exception]]]) -> None:
        for errors in await asyncio.gather(*work):
            self._complain(errors)

    def _complain(self, errors: Iterable[Exception]) -> None:
        for fault in errors:
            self._log.warning("recovery: %s", fault)

    def _decide(self, world: World, node: NodeLinks) -> Recovery:
        confirmed = self._attacher.confirmed
        known = [item if item.confirmed else replace(item, confirmed=confirmed(item)) for item in world.attachments()]
        return decide(known, node, _alive(known, node, self._kernel.identify), self._attacher.facts.boot_id)

    def _idle_long(self, names: Sequence[str]) -> list[str]:
        """Those that were idle at every look for some time: making a bridge anew would cost the next ADD."""
        now = time.monotonic()
        self._idle = {name: self._idle.get(name, now) for name in names}
        return [name for name, since in self._idle.items() if now >= since + self._idle_seconds]

    async def replay(self) -> int:
        """Carry out spooled deletions; how many are done. One that fails stays for the next time."""
        done = 0
        for call in await asyncio.to_thread(list, self._spool.pending()):
            done += await self._replay(call)
        return done

    async def _replay(self, call: SpooledCall) -> bool:
        try:
            request = parse(call.body)
        except CniError as fault:
            self._log.warning("spooled call %s means nothing and is set aside: %s", call.path, fault)
            self._spool.set_aside(call)
            return False
        try:
            if request.command == "DEL":
                await self._attacher.delete(request, cancelled=lambda: not call.path.exists())
        except FairwayError as fault:
            self._log.warning("spooled call %s: %s", call.path, fault)
            return False
        self._spool.done(call)
        return True


def _alive(attachments: Sequence[Attachment], node: NodeLinks, identify: Callable[[str], str]) -> dict[str, bool]:
    """Whether the paths of attachments without a link of ours lead to their namespaces; of the others that does not matter."""
    linked = {veth.host_ifname for veth in node.veths}
    wanted = [item for item in attachments if item.host_ifname not in linked]
    there = {path: _identified(path, identify) for path in {item.netns for item in wanted}}
    return {item.meta.name: there[item.netns] == item.netns_id for item in wanted}


def _identified(path: str, identify: Callable[[str], str]) -> str:
    try:
        return identify(path)
    except KernelError:
        return ""
