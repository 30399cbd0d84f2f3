"""What an attachment takes that others cannot have at the same time: addresses and ports of the node."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairway_cni import faults
from fairway_cni.delegate import AddressPlugins, Delegation
from fairway_cni.faults import CniError
from fairway_cni.health import NETWORKS, PluginHealth
from fairway_cni.hostports import PortBook
from fairway_cni.ipam import AddressPool, Use
from fairway_cni.netconf import CHAINED, Wanted
from fairway_cni.plan import Identity
from fairway_cni.protocol import Request
from fairway_cni.wishes import previous_addresses
from fairway_core.errors import ConflictError, ExhaustedError, FairwayError, UserError
from fairway_core.model import Attachment, family_of
from fairway_core.world import World


@dataclass(frozen=True, slots=True)
class Claim:
    """Addresses, IPv4 first, and the delegation they came by, in stored form."""

    ips: tuple[str, ...]
    delegate: str = ""


class AddressHeld(FairwayError):
    """Another attachment has the address."""


class Claims:
    """Addresses come from a main plugin before us, from an address plugin, or from the pool. Ports come from the node."""

    def __init__(self, pool: AddressPool, plugins: AddressPlugins) -> None:
        self._pool = pool
        self._plugins = plugins
        self._health = PluginHealth(plugins.status)
        self._ports = PortBook()
        self._chained: set[str] = set()
        """Networks whose last container came with addresses of another plugin: STATUS has no prevResult that would tell."""

    async def status(self, request: Request) -> None:
        """Whether an ADD would get addresses. Raises CniError 51 if the pool has none left, or what an address plugin says.

        A network whose addresses come from the plugin before us needs none of the pool.
        """
        if request.config.ipam:
            await self._health.look(request.config.name, Delegation.of(request))
            return
        if request.config.chained or request.config.name in self._chained:
            return
        shortage = self._pool.shortage(request.config.ranges)
        if shortage:
            raise CniError(faults.LIMITED, "new containers cannot be attached", shortage)

    def uses(self) -> list[Use]:
        """See AddressPool.uses."""
        return self._pool.uses()

    def adopt(self, world: World) -> None:
        """Take over the ports of attachments that are there at the start. Ports that two hold stay with the first."""
        for item in world.attachments():
            self._note_mode(item.network, item.mode)
            try:
                self._ports.reserve(item.meta.name, item.host_ports, _families(item.ips))
            except CniError:
                continue

    async def take(self, request: Request, who: Identity, wanted: Wanted) -> Claim:
        """All that the request needs, or an exception and nothing. Raises CniError."""
        claim = await self._addresses(request, who, wanted)
        try:
            self._ports.reserve(who.object_name, wanted.host_ports, _families(claim.ips))
        except CniError:
            await self._give_back(claim, who, request.netns)
            raise
        return claim

    def take_over(self, attachment: Attachment) -> list[str]:
        """Take the addresses of a container that has them already; those that it did not hold before.

        Raises AddressHeld, and takes none, if one is held by another.
        """
        owner = attachment.meta.name
        missing = [ip for ip in attachment.ips if self._pool.owner_of(ip) != owner]
        held = {ip: holder for ip in missing if (holder := self._pool.owner_of(ip))}
        if held:
            texts = ", ".join(f"{ip} is held by {holder}" for ip, holder in held.items())
            raise AddressHeld(f"{attachment.container_id} cannot be taken over: {texts}")
        for ip in missing:
            self._pool.hold(ip, owner)
        return missing

    def drop(self, ips: Iterable[str], attachment: Attachment) -> None:
        """Give addresses back that the attachment has not, or not any more."""
        self._pool.release(ips, attachment.meta.name)

    async def release(self, attachment: Attachment) -> list[Exception]:
        """Give everything back; the errors met. Harmless if it was given back before."""
        name = attachment.meta.name
        self._ports.release(name, attachment.host_ports)
        who = Identity(attachment.network, attachment.container_id, attachment.ifname)
        try:
            await self._give_back(Claim(attachment.ips, attachment.delegate), who, attachment.netns)
        except FairwayError as fault:
            return [fault]
        return []

    async def forget_unknown(self, request: Request) -> None:
        """DEL of what the store does not know: an address plugin may know it all the same. Raises CniError."""
        if request.config.ipam:
            await self._plugins.delete(Delegation.of(request), request.container_id, request.netns, request.ifname)

    async def check(self, attachment: Attachment) -> None:
        """CHECK of the address plugin, if there is one. Raises CniError."""
        if attachment.delegate:
            what = Delegation.from_text(attachment.delegate)
            await self._plugins.check(what, attachment.container_id, attachment.netns, attachment.ifname)

    async def collect(self, request: Request) -> None:
        """GC of the address plugin, if there is one. Raises CniError."""
        if request.config.ipam:
            await self._plugins.collect(Delegation.of(request))

    def hold(self, ip: str, owner: str) -> bool:
        """See AddressPool.hold."""
        return self._pool.hold(ip, owner)

    def let_go(self, ip: str, owner: str) -> None:
        """End of `hold`."""
        self._pool.release((ip,), owner)

    async def _addresses(self, request: Request, who: Identity, wanted: Wanted) -> Claim:
        previous = request.config.prev_result
        self._note_mode(who.network, wanted.mode)
        if wanted.mode == CHAINED and previous is not None:
            return Claim(previous_addresses(previous, who.ifname, request.netns))
        if wanted.ipam:
            what = Delegation.of(request)
            ips = await self._plugins.add(what, who.container_id, request.netns, who.ifname)
            return Claim(ips, what.text())
        try:
            return Claim(self._pool.allocate(who.object_name, wanted.ips or request.args.ips, wanted.ranges))
        except (UserError, ConflictError, ExhaustedError) as fault:
            raise CniError(faults.ADDRESS, str(fault)) from fault

    def _note_mode(self, network: str, mode: str) -> None:
        """What the network's newest container says about the next one."""
        if mode != CHAINED:
            self._chained.discard(network)
        elif len(self._chained) < NETWORKS:
            self._chained.add(network)

    async def _give_back(self, claim: Claim, who: Identity, netns: str) -> None:
        self._pool.release(claim.ips, who.object_name)
        if claim.delegate:
            what = Delegation.from_text(claim.delegate)
            await self._plugins.delete(what, who.container_id, netns, who.ifname)


def _families(ips: tuple[str, ...]) -> list[int]:
    return [family_of(ip) for ip in ips]
