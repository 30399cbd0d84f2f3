"""ADD: from a request to a container that is attached.

Order: address; Attachment (unconfirmed) and Pod in one commit, rules and names live, and meanwhile the pair, down; then it is
connected; confirmed in the background.
A crash between any two steps leaves something that the next ADD or DEL of the key, or `fairway_cni.recover`, recognises and
finishes.
"""

from __future__ import annotations

import asyncio
import errno
import logging

from fairway_cni import faults, plan
from fairway_cni.claims import Claim, Claims
from fairway_cni.control import Control
from fairway_cni.documents import Said
from fairway_cni.faults import CniError, as_cni_error, combined
from fairway_cni.ipam import mac_of
from fairway_cni.netconf import BRIDGE, CHAINED, Wanted
from fairway_cni.plan import Identity, NodeFacts
from fairway_cni.protocol import Request
from fairway_cni.records import Records
from fairway_cni.removal import Remover
from fairway_cni.result import AttachResult
from fairway_cni.spool import Spool
from fairway_cni.wires import Kernel, Target, Wires
from fairway_cni.work import WorkThreads
from fairway_core.errors import ConflictError, KernelError, StoreUnavailable
from fairway_core.keys import Key
from fairway_core.model import Attachment, Meta

NAME = 253
"""Octets of an object's name (RFC 1123, as Kubernetes takes it)."""


class Adder:
    """Carries ADDs out. The caller holds the lock of the attachment."""

    def __init__(
        self,
        control: Control,
        kernel: Kernel,
        facts: NodeFacts,
        spool: Spool,
        records: Records,
        wires: Wires,
        claims: Claims,
        remover: Remover,
        threads: WorkThreads,
        log: logging.Logger,
    ) -> None:
        self._control = control
        self._kernel = kernel
        self._facts = facts
        self._spool = spool
        self._records = records
        self._wires = wires
        self._claims = claims
        self._remover = remover
        self._threads = threads
        self._log = log

    async def add(self, request: Request, who: Identity) -> AttachResult:
        """Attach a container. Raises CniError; after any failure nothing is left behind but what the log names."""
        reason = self._control.not_ready()
        if reason:
            raise CniError(faults.TRY_LATER, "the agent cannot attach containers now", reason)
        await self._expect_pod(request)
        target = self._wires.inspect(request.netns, _wanted(request).mtu)
        await self._clear_leftovers(who)
        self._spool.forget(who)
        return await self._wire(request, who, target)

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

    async def _clear_leftovers(self, who: Identity) -> None:
        """Remove what an earlier ADD of this key left; raise if it left a working attachment."""
        attachment = self._records.find(who)
        if attachment is None:
            return
        # The runtime may have deleted it while the agent was away.
        expected = self._records.confirmed(attachment) and not self._spool.holds(who)
        if expected and await self._threads.run(self._wires.alive, attachment):
            raise CniError(
                faults.EXISTS,
                f"{who.container_id}/{who.ifname} is attached already",
                f"in {attachment.netns}, with {', '.join(attachment.ips)}",
            )
        error = combined(await self._remover.remove(attachment), "cannot clean up what an earlier ADD left")
        if error:
            raise error

    async def _wire(self, request: Request, who: Identity, target: Target) -> AttachResult:
        wanted = _wanted(request)
        _refuse_impossible(wanted)
        claim = await self._claim(request, who, wanted)
        attachment = _planned(request, who, target, claim, self._facts.boot_id)
        try:
            attachment, revision = await self._connect(attachment, _said_of(request))
            await self._flush_ports(attachment)
            await self._control.named(revision)
        except BaseException as fault:
            errors = await asyncio.shield(self._remover.remove(attachment))
            for error in errors:
                self._log.warning("undoing ADD of %s: %s", attachment.meta.name, error)
            raise _explained(fault, attachment) from fault
        self._records.succeeded(attachment, revision)
        return self._result(attachment, request)

    async def _connect(self, attachment: Attachment, said: Said) -> tuple[Attachment, int]:
        """The pair is made while the record goes to the disk and the rules to the kernel; it is connected after both."""
        with self._wires.wiring(attachment) as wiring:
            declared = await self._threads.beside(wiring.prepare, self._records.declare(attachment, said))
            await self._threads.make(wiring.connect)
        return declared

    async def _claim(self, request: Request, who: Identity, wanted: Wanted) -> Claim:
        """Addresses and ports; what a container that is just leaving still has is waited for."""
        try:
            return await self._claims.take(request, who, wanted)
        except CniError as fault:
            if fault.code not in (faults.ADDRESS, faults.HOST_PORT) or not self._remover.busy:
                raise
            await self._remover.settle()
            return await self._claims.take(request, who, wanted)

    async def _flush_ports(self, attachment: Attachment) -> None:
        """UDP senders that were there first would go on being sent nowhere for as long as their flow is tracked."""
        if not any(port.protocol == "udp" for port in attachment.host_ports):
            return
        try:
            await self._threads.run(self._kernel.flush_ports, attachment.host_ports)
        except KernelError as fault:
            self._log.warning("tracked connections to ports of %s are not forgotten: %s", attachment.meta.name, fault)

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
    names |= {"mtu": "mtu", "ipam": "ipam"}
    asked = [name for field, name in names.items() if getattr(wanted, field)]
    if asked:
        text = f"{', '.join(asked)}: not for an interface that another plugin made"
        raise CniError(faults.UNSUPPORTED_FIELD, text, "prevResult is present")


def _planned(request: Request, who: Identity, target: Target, claim: Claim, boot_id: str) -> Attachment:
    wanted, args = _wanted(request), request.args
    namespace = args.namespace or wanted.namespace
    pod = args.name or plan.dns_safe(who.container_id)[:NAME].strip("-")
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
        boot_id=boot_id,
        netns_id=target.netns_id,
        aliases=wanted.aliases,
        host_ports=wanted.host_ports,
        bandwidth=wanted.bandwidth,
        routes=wanted.routes,
        sysctls=wanted.sysctls,
        # Who made the interface decides about it, unless the network says otherwise.
        masquerade=wanted.mode != CHAINED if wanted.masquerade is None else wanted.masquerade,
        search_completion=wanted.search_completion,
        delegate=claim.delegate,
    )


def _explained(fault: BaseException, attachment: Attachment) -> BaseException:
    """The error of a failed ADD as the runtime should see it; cancellation stays what it is."""
    if not isinstance(fault, Exception):
        return fault
    if isinstance(fault, KernelError) and fault.errno == errno.EEXIST:
        return CniError(faults.EXISTS, f"{attachment.ifname} exists already in {attachment.netns}", str(fault))
    if isinstance(fault, ConflictError):
        return CniError(faults.TRY_LATER, "the Pod object keeps changing", str(fault))
    return as_cni_error(fault)
