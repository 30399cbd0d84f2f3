"""The CNI verbs, carried out: state in the store, links in the kernel, addresses from the pool.

Order of an ADD: address, Attachment (unconfirmed) and Pod in one commit, rules and names live, then the wire; confirmed in the
background. Order of a DEL: the wire, then the objects, then connection tracking, the address last. A crash between any two
steps leaves something that the next ADD or DEL of the key, or `fairway_cni.recover`, recognises and finishes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable

from fairway_cni import faults, plan
from fairway_cni.check import differences
from fairway_cni.claims import Claim, Claims
from fairway_cni.control import Control
from fairway_cni.delegate import AddressPlugins
from fairway_cni.documents import Said
from fairway_cni.faults import CniError, as_cni_error, combined
from fairway_cni.ipam import AddressPool, Use, mac_of
from fairway_cni.locks import KeyedLocks
from fairway_cni.netconf import BRIDGE, CHAINED, Wanted
from fairway_cni.plan import Identity, NodeFacts
from fairway_cni.protocol import Request
from fairway_cni.records import Records
from fairway_cni.removal import Remover
from fairway_cni.result import AttachResult
from fairway_cni.spool import Spool
from fairway_cni.wires import Kernel, Target, Wires
from fairway_cni.work import Background, WorkThreads
from fairway_core.errors import ConflictError, FairwayError, KernelError, StoreUnavailable
from fairway_core.keys import Key
from fairway_core.model import Attachment, Meta

RECOVERY = "recovery"
"""Owner of an address whose traces are being removed."""
NO_LINK = "fwb-none"
"""A name in our name space that no link has: its digest is none."""


CONFIRM_AFTER = 0.5
"""Seconds until an attachment is confirmed in the store; this process knows it at once. Confirming later keeps the commit out of
the way of a burst, and most of the commits away from containers that live for a moment."""


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
        self._records = Records(control, facts.node, log)
        self._kernel = kernel
        self._links = kernel.links
        self._wires = Wires(kernel, facts)
        self._claims = Claims(pool, AddressPlugins())
        self._claims.adopt(control.world())
        self._facts = facts
        self._spool = spool
        self._log = log
        self._locks = KeyedLocks()
        self._confirm_after = confirm_after
        self._threads = WorkThreads()
        self._background = Background()
        self._wired: set[str] = set()
        self._remover = Remover(self._records, self._wires, self._claims, kernel, self._threads, log)

    @property
    def facts(self) -> NodeFacts:
        return self._facts

    async def add(self, request: Request) -> AttachResult:
        """Attach a container. Raises CniError; after any failure nothing is left behind but what the log names."""
        who = identity(request)
        async with self._locks.hold(who.digest):
            reason = self._control.not_ready()
            if reason:
                raise CniError(faults.TRY_LATER, "the agent cannot attach containers now", reason)
            await self._expect_pod(request)
            target = await self._inspect(request)
            await self._clear_leftovers(who)
            self._spool.forget(who)
            return await self._wire(request, who, target)

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
                self._wired.discard(attachment.meta.name)
                errors, release = await self._remover.remove_unplugged(attachment, release)
            else:
                errors = await self._remove(attachment) if attachment else await self._remover.sweep(who, request)
        finally:
            release()
        error = combined(errors, "cannot detach completely")
        if error:
            raise error

    async def check(self, request: Request) -> None:
        """Compare an attachment with its container and the node. Raises CniError naming every difference."""
        who = identity(request)
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
        """Raises CniError 50 while the agent cannot serve an ADD, 51 if addresses are used up. Never waits."""
        reason = self._control.not_ready()
        if reason:
            raise CniError(faults.NOT_AVAILABLE, "the plugin is not available", reason)
        if not request.config.ipam and self._claims.exhausted:
            raise CniError(faults.LIMITED, "new containers cannot be attached", self._claims.exhausted)

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
            return await self._remove(attachment)

    async def bury(self, attachment: Attachment) -> list[Exception]:
        """`reap`, unless the container has its interface after all: its ADD may have ended since it was taken for dead."""
        async with self._locks.hold(plan.identity_of(attachment).digest):
            if not self._records.same(attachment) or await self._threads.run(self._wires.alive, attachment):
                return []
            self._log.info("removing dead attachment %s of %s/%s", attachment.meta.name, *_pod(attachment))
            return await self._remove(attachment)

    async def rewire(self, attachment: Attachment) -> list[Exception]:
        """Make the link of a live attachment anew, unless its container has it after all."""
        return await self._mend(attachment, self._attach_if_gone)

    def confirmed(self, attachment: Attachment) -> bool:
        """Whether its ADD has succeeded; the store learns that a little later."""
        return attachment.confirmed or attachment.meta.name in self._wired

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

    async def drop_stray(self, ip: str) -> list[Exception]:
        """Remove the route and neighbour of an address of ours that nobody holds; it stays taken meanwhile."""
        if not self._claims.hold(ip, RECOVERY):
            return []
        try:
            await self._threads.run(self._links.detach, NO_LINK, (ip,))
        except FairwayError as fault:
            return [fault]
        finally:
            self._claims.let_go(ip, RECOVERY)
        return []

    async def drain(self) -> None:
        """Wait for background work: at shutdown, and in tests."""
        await self.settle()
        await self._background.drain()

    async def settle(self) -> None:
        """Wait until links of removed attachments are gone, and their addresses free."""
        await self._remover.settle()

    # ADD

    async def _expect_pod(self, request: Request) -> None:
        """Where an API server declares Pods: no container before its labels are known, for policy would miss them."""
        args = request.args
        if not args.name:
            return
        key = Key("Pod", args.namespace or _wanted(request).namespace, args.name)
        try:
            await self._control.expect_pod(key, args.uid)
        except StoreUnavailable as fault:
            raise CniError(faults.TRY_LATER, "the Pod is not known yet", str(fault)) from fault

    async def _inspect(self, request: Request) -> Target:
        """On the event loop if it is but one look at a file system in memory; a thread costs more than that."""
        mtu = _wanted(request).mtu or self._wires.known_mtu
        if mtu:
            return self._wires.inspect(request.netns, mtu)
        return await self._threads.run(self._wires.inspect, request.netns, 0)

    async def _clear_leftovers(self, who: Identity) -> None:
        """Remove what an earlier ADD of this key left; raise if it left a working attachment."""
        attachment = self._records.find(who)
        if attachment is None:
            return
        # The runtime may have deleted it while the agent was away.
        if self.confirmed(attachment) and not self._spool.holds(who) and await self._threads.run(self._wires.alive, attachment):
            raise CniError(
                faults.EXISTS,
                f"{who.container_id}/{who.ifname} is attached already",
                f"in {attachment.netns}, with {', '.join(attachment.ips)}",
            )
        error = combined(await self._remove(attachment), "cannot clean up what an earlier ADD left")
        if error:
            raise error

    async def _wire(self, request: Request, who: Identity, target: Target) -> AttachResult:
        wanted = _wanted(request)
        _refuse_impossible(wanted)
        claim = await self._claim(request, who, wanted)
        attachment = self._plan(request, who, target, claim)
        try:
            attachment, revision = await self._records.declare(attachment, _said_of(request))
            await self._threads.run(self._wires.attach, attachment)
            await self._flush_ports(attachment)
            await self._control.named(revision)
        except BaseException as fault:
            errors = await asyncio.shield(self._remove(attachment))
            for error in errors:
                self._log.warning("undoing ADD of %s: %s", attachment.meta.name, error)
            raise _explained(fault, attachment) from fault
        self._wired.add(attachment.meta.name)
        self._background.start(self._confirm(attachment, revision))
        return self._result(attachment, request)

    def _plan(self, request: Request, who: Identity, target: Target, claim: Claim) -> Attachment:
        wanted, args = _wanted(request), request.args
        namespace = args.namespace or wanted.namespace
        pod = args.name or plan.dns_safe(who.container_id)
        return Attachment(
            meta=Meta(who.object_name),
            network=who.network,
            container_id=who.container_id,
            ifname=who.ifname,
            netns=request.netns,
            pod_namespace=namespace,
            pod_name=pod,
            host_ifname=who.host_ifname(wanted.mode),
            mac=wanted.mac or args.mac or mac_of(claim.ips[0]),
            ips=claim.ips,
            mode=wanted.mode,
            mtu=target.mtu,
            boot_id=self._facts.boot_id,
            netns_id=target.netns_id,
            aliases=wanted.aliases,
            host_ports=wanted.host_ports,
            bandwidth=wanted.bandwidth,
            routes=wanted.routes,
            sysctls=wanted.sysctls,
            # Who made the interface decides about it, unless the network says otherwise.
            masquerade=wanted.mode != CHAINED if wanted.masquerade is None else wanted.masquerade,
            delegate=claim.delegate,
        )

    async def _claim(self, request: Request, who: Identity, wanted: Wanted) -> Claim:
        """Addresses and ports; what a container that is just leaving still has is waited for."""
        try:
            return await self._claims.take(request, who, wanted)
        except CniError as fault:
            if fault.code not in (faults.ADDRESS, faults.HOST_PORT) or not self._remover.busy:
                raise
            await self.settle()
            return await self._claims.take(request, who, wanted)

    async def _flush_ports(self, attachment: Attachment) -> None:
        """UDP senders that were there first would go on being sent nowhere for as long as their flow is tracked."""
        if not any(port.protocol == "udp" for port in attachment.host_ports):
            return
        try:
            await self._threads.run(self._kernel.flush_ports, attachment.host_ports)
        except KernelError as fault:
            self._log.warning("tracked connections to ports of %s are not forgotten: %s", attachment.meta.name, fault)

    async def _confirm(self, attachment: Attachment, revision: int) -> None:
        await asyncio.sleep(self._confirm_after)
        if attachment.meta.name in self._wired:
            await self._records.confirm(attachment, revision)

    def _result(self, attachment: Attachment, request: Request) -> AttachResult:
        bridged = attachment.mode == BRIDGE
        return AttachResult(
            ifname=attachment.ifname,
            mac=attachment.mac,
            sandbox=request.netns,
            host_ifname=attachment.host_ifname,
            ips=attachment.ips,
            mtu=attachment.mtu,
            bridge=plan.bridge_name(attachment.network) if bridged else "",
            bridge_mac=plan.GATEWAY_MAC if bridged else "",
            dns=_wanted(request).dns or plan.resolver_of(self._facts, attachment.pod_namespace),
            routes=attachment.routes,
            previous=request.config.prev_result if attachment.mode == CHAINED else None,
        )

    # Common

    async def _remove(self, attachment: Attachment) -> list[Exception]:
        errors = await self._remover.remove(attachment)
        if not self._records.same(attachment):
            self._wired.discard(attachment.meta.name)
        return errors

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


def _wanted(request: Request) -> Wanted:
    return request.config.wanted or Wanted()


def _said_of(request: Request) -> Said:
    wanted = _wanted(request)
    return Said({**request.args.labels, **wanted.labels}, wanted.annotations, request.args.uid)


def _refuse_impossible(wanted: Wanted) -> None:
    """What needs an interface of our making. Raises CniError with code 2, naming the field."""
    if wanted.mode != CHAINED:
        return
    names = {"bandwidth": "bandwidth", "routes": "routes", "sysctls": "sysctl", "mac": "mac", "ips": "ips", "ranges": "ipRanges"}
    asked = [name for field, name in names.items() if getattr(wanted, field)]
    if asked:
        text = f"{', '.join(asked)}: not for an interface that another plugin made"
        raise CniError(faults.UNSUPPORTED_FIELD, text, "prevResult is present")


def _pod(attachment: Attachment) -> tuple[str, str]:
    return attachment.pod_namespace, attachment.pod_name


def _explained(fault: BaseException, attachment: Attachment) -> BaseException:
    """The error of a failed ADD as the runtime should see it; cancellation stays what it is."""
    if not isinstance(fault, Exception):
        return fault
    if isinstance(fault, KernelError) and fault.errno == errno.EEXIST:
        return CniError(faults.EXISTS, f"{attachment.ifname} exists already in {attachment.netns}", str(fault))
    if isinstance(fault, ConflictError):
        return CniError(faults.TRY_LATER, "the Pod object keeps changing", str(fault))
    return as_cni_error(fault)
