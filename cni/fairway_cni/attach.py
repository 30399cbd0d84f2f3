"""The CNI verbs, carried out: state in the store, links in the kernel, addresses from the pool.

Adding is `fairway_cni.adding`, taking away `fairway_cni.removal`; here each verb takes the lock of its attachment.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fairway_cni import faults, plan
from fairway_cni.adding import Adder
from fairway_cni.adopt import Adopter
from fairway_cni.check import differences
from fairway_cni.claims import Claims
from fairway_cni.control import Control
from fairway_cni.delegate import AddressPlugins
from fairway_cni.faults import CniError, combined
from fairway_cni.ipam import AddressPool, Use
from fairway_cni.locks import KeyedLocks
from fairway_cni.plan import Identity, NodeFacts
from fairway_cni.protocol import Request
from fairway_cni.records import CONFIRM_AFTER, Records
from fairway_cni.removal import Remover
from fairway_cni.result import AttachResult
from fairway_cni.spool import Spool
from fairway_cni.wires import Kernel, Wires
from fairway_cni.work import WorkThreads
from fairway_core.errors import FairwayError, KernelError
from fairway_core.model import Attachment

RECOVERY = "recovery"
"""Owner of an address whose traces are being removed."""
NO_LINK = "fwb-none"
"""A name in our name space that no link has: its digest is none."""


class Attacher:
    """ADD, DEL, CHECK, GC and STATUS. Calls for one attachment run one after another, others side by side."""

    def __init__(
        self,
        control: Control,
        kernel: Kernel,
        pool: AddressPool,
        facts: NodeFacts,
        spool: Spool,
        log: logging.Logger,
        confirm_after: float = CONFIRM_AFTER,
    ) -> None:
        self._control = control
        self._records = Records(control, facts.node, log, confirm_after)
        self._kernel = kernel
        self._links = kernel.links
        self._wires = Wires(kernel, facts)
        self._claims = Claims(pool, AddressPlugins())
        self._claims.adopt(control.world())
        self._facts = facts
        self._spool = spool
        self._log = log
        self._locks = KeyedLocks()
        self._threads = WorkThreads()
        self._remover = Remover(self._records, self._wires, self._claims, kernel, self._threads, log)
        self._adopter = Adopter(control, self._records, self._wires, self._claims, self._threads, log)
        self._adder = Adder(
            control, kernel, facts, spool, self._records, self._wires, self._claims, self._remover, self._threads, log
        )

    @property
    def facts(self) -> NodeFacts:
        return self._facts

    async def add(self, request: Request) -> AttachResult:
        """Attach a container. Raises CniError; after any failure nothing is left behind but what the log names."""
        who = identity(request)
        async with self._locks.hold(who.digest):
            return await self._adder.add(request, who)

    async def delete(self, request: Request, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Detach a container; one that is unknown or gone is no error. Raises CniError if something remains.

        `cancelled` is asked once it is this call's turn: a replayed deletion must not meet a newer attachment of the same key.
        """
        who = identity(request)
        release = await self._locks.acquire(who.digest)
        try:
            if cancelled():
                return
            attachment = self._records.find(who)
            # The answer of an address plugin is the runtime's to know, so that one is waited for.
            if attachment and not attachment.delegate and await self._threads.run(self._wires.unplug, attachment):
                errors, release = await self._remover.remove_unplugged(attachment, release)
            else:
                errors = await self._remover.remove(attachment) if attachment else await self._remover.sweep(who, request)
            if attachment and attachment.adopted:
                errors = [*errors, *await self._remover.forget_unknown(request)]
        finally:
            release()
        error = combined(errors, "cannot detach completely")
        if error:
            raise error

    async def check(self, request: Request) -> None:
        """Compare an attachment with its container and the node. Raises CniError naming every difference."""
        who = identity(request)
        reason = self._control.not_ready()
        if reason:
            raise CniError(faults.TRY_LATER, "the agent cannot tell now", reason)
        async with self._locks.hold(who.digest):
            attachment = self._records.find(who)
            if attachment is None:
                raise CniError(faults.MISMATCH, f"{who.container_id}/{who.ifname} is not attached to network {who.network}")
            try:
                inside = await self._threads.run(self._links.inside, request.netns, who.ifname)
            except KernelError as fault:
                raise CniError(faults.MISMATCH, "the container's network namespace cannot be entered", str(fault)) from fault
            found = differences(attachment, inside, await self._threads.run(self._links.read), request.config.prev_result)
            if not found:
                await self._claims.check(attachment)
        if found:
            raise CniError(faults.MISMATCH, "the attachment is not as it was made", "; ".join(found))

    async def collect(self, request: Request) -> int:
        """GC: remove this network's attachments that the runtime does not list; how many. Goes on after errors, then raises."""
        valid = request.config.attachments
        if valid is None:
            # An absent list is a caller's mistake; taking it for an empty one would cut off every container.
            raise CniError(faults.CONFIG, "GC: cni.dev/valid-attachments is absent; nothing was removed")
        stale = [
            item
            for item in self._control.world().attachments()
            if item.network == request.config.name and (item.container_id, item.ifname) not in valid
        ]
        results = await asyncio.gather(*(self.reap(item) for item in stale))
        faults_met = [fault for errors in results for fault in errors]
        try:
            await self._claims.collect(request)
        except CniError as fault:
            faults_met.append(fault)
        error = combined(faults_met, "cannot collect everything")
        if error:
            raise error
        return len(stale)

    async def status(self, request: Request) -> None:
        """Raises CniError 50 while the agent cannot serve an ADD, 51 if addresses are used up, or what an address plugin says.

        Answers within a tenth of a second of processing: see `fairway_cni.health`.
        """
        reason = self._control.not_ready()
        if reason:
            raise CniError(faults.NOT_AVAILABLE, "the plugin is not available", reason)
        await self._claims.status(request)

    def address_use(self) -> list[Use]:
        """Every address range and who holds what of it."""
        return self._claims.uses()

    # Steps for recovery: each takes the lock of its attachment and looks again before it acts.

    async def reap(self, attachment: Attachment) -> list[Exception]:
        """Remove `attachment` if it is still there and the same; the errors met."""
        async with self._locks.hold(plan.identity_of(attachment).digest):
            if not self._records.same(attachment):
                return []
            self._log.info("removing stale attachment %s of %s/%s", attachment.meta.name, *_pod(attachment))
            return await self._remover.remove(attachment)

    async def bury(self, attachment: Attachment) -> list[Exception]:
        """`reap`, unless the container has its interface after all: its ADD may have ended since it was taken for dead."""
        async with self._locks.hold(plan.identity_of(attachment).digest):
            if not self._records.same(attachment) or await self._threads.run(self._wires.alive, attachment):
                return []
            self._log.info("removing dead attachment %s of %s/%s", attachment.meta.name, *_pod(attachment))
            return await self._remover.remove(attachment)

    async def adopt(self, found: Attachment) -> list[Exception]:
        """Take over a container that is attached without a record, or with an older one: see `fairway_cni.adopt`."""
        async with self._locks.hold(plan.identity_of(found).digest):
            return await self._adopter.adopt(found)

    async def rewire(self, attachment: Attachment) -> list[Exception]:
        """Make the link of a live attachment anew, unless its container has it after all."""
        return await self._mend(attachment, self._attach_if_gone)

    def confirmed(self, attachment: Attachment) -> bool:
        """Whether its ADD has succeeded; the store learns that a little later."""
        return self._records.confirmed(attachment)

    def at_work(self, host_ifname: str) -> bool:
        """Whether a call is at work on the attachment whose link has this name."""
        return self._locks.held(host_ifname[3:])

    async def repair(self, attachment: Attachment) -> list[Exception]:
        """Put back what is missing on the node's side."""
        return await self._mend(attachment, self._wires.mend)

    async def drop_orphan(self, host_ifname: str) -> list[Exception]:
        """Remove a link of ours that no attachment owns."""
        digest = host_ifname[3:]
        async with self._locks.hold(digest):
            if any(item.host_ifname[3:] == digest for item in self._control.world().attachments()):
                return []
            self._log.info("removing orphan link %s", host_ifname)
            try:
                await self._threads.run(self._links.detach, host_ifname, ())
            except FairwayError as fault:
                return [fault]
        return []

    async def drop_bridge(self, name: str) -> list[Exception]:
        """Remove the bridge of a network that has no attachment."""

        def is_needed() -> bool:
            return name in plan.bridges(self._control.world().attachments())

        try:
            if await self._threads.run(self._wires.drop_bridge, name, is_needed):
                self._log.info("removing bridge %s, whose network is not in use", name)
        except FairwayError as fault:
            return [fault]
        return []

    async def drop_stray(self, ip: str) -> list[Exception]:
        """Remove all traces of an address of ours that nobody holds; it stays taken meanwhile, and is given out last."""
        return await self._remover.hold(self._drop_stray(ip)) if self._claims.hold(ip, RECOVERY) else []

    async def _drop_stray(self, ip: str) -> list[Exception]:
        try:
            await self._threads.run(self._links.detach, NO_LINK, (ip,))
            await self._threads.run(self._kernel.flush, (ip,))
        except FairwayError as fault:
            return [fault]
        finally:
            self._claims.let_go(ip, RECOVERY)
        return []

    async def drain(self) -> None:
        """Wait for background work: at shutdown, and in tests."""
        await self.settle()
        await self._records.drain()

    async def settle(self) -> None:
        """Wait until links of removed attachments are gone, and their addresses free."""
        await self._remover.settle()

    # Common

    def _attach_if_gone(self, attachment: Attachment) -> None:
        if not self._wires.alive(attachment):
            self._wires.attach(attachment)

    async def _mend(self, attachment: Attachment, work: Callable[[Attachment], None]) -> list[Exception]:
        async with self._locks.hold(plan.identity_of(attachment).digest):
            if not self._records.same(attachment):
                return []
            try:
                await self._threads.run(work, attachment)
            except FairwayError as fault:
                return [fault]
            self._log.info("link %s of %s/%s is put back", attachment.host_ifname, *_pod(attachment))
        return []


def identity(request: Request) -> Identity:
    """What the request is about."""
    return Identity(request.config.name, request.container_id, request.ifname)


def _pod(attachment: Attachment) -> tuple[str, str]:
    return attachment.pod_namespace, attachment.pod_name
