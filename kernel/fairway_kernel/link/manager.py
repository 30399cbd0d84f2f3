"""Links in the kernel, by raw rtnetlink. One attachment costs about a millisecond (bench/wire.py).

Promise: `LinkManager` of objects.py. All calls may come from many threads at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import decode, node, peers, shaping, survey, wiring
from fairway_kernel.link.device import Devices
from fairway_kernel.link.objects import ROUTE_PROTOCOL, VETH_GROUP, Bridge, InsideState, NodeLinks, PeerRoutes, Veth
from fairway_kernel.link.reaper import Reaper
from fairway_kernel.link.rtnl import IFLA_IFNAME, delete_host_route, delete_link, delete_neighbour, get_link, host_bits, set_link
from fairway_kernel.netlink import NetlinkSocket, Request, SocketPool, attr_text
from fairway_kernel.sysctl import Sysctls, ensure_here, write_here


class KernelLinks:
    """The links of the namespace at path `netns`, or of the calling thread's."""

    def __init__(self, netns: str | None = None) -> None:
        self._node = namespaces.identity(netns or "/proc/thread-self/ns/net")
        self._pool = SocketPool(netns)
        self._devices = Devices(netns)
        self._sysctls = Sysctls(netns)
        self._reaper = Reaper(self._pool, self._devices.index)

    def ensure_bridge(self, bridge: Bridge) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            node.ensure_bridge(channel, self._devices, self._sysctls, bridge)

    def delete_bridge(self, name: str, mac: str = "") -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            node.delete_bridge(channel, name, mac)

    def ensure_loopback(self, addresses: Sequence[str]) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            node.ensure_loopback(channel, addresses)
            survey.await_addresses(channel, addresses)

    def ensure_service_routes(self, cidrs: Sequence[str]) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            node.ensure_service_routes(channel, cidrs)

    def ensure_peer_routes(self, wanted: Mapping[str, str]) -> PeerRoutes:
        """See LinkManager."""
        with self._pool.lend() as channel:
            return peers.ensure_peer_routes(channel, wanted)

    def attach(self, veth: Veth) -> None:
        """See LinkManager."""
        fd = self._open_namespace(veth.netns)
        try:
            with self._pool.lend() as channel:
                self._create(channel, veth, fd)
                try:
                    self._configure_node(channel, veth)
                    namespaces.run_in_fd(fd, lambda: _configure_inside(veth))
                    self._settle(veth)
                except BaseException:
                    self._undo(channel, veth)
                    raise
        finally:
            os.close(fd)

    def ensure_node_side(self, veth: Veth) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            self._configure_node(channel, veth)
        self._settle(veth)

    def detach(self, host_ifname: str, ips: Sequence[str]) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            self._forget(channel, ips)
        self._reaper.delete(host_ifname, shaping.redirector_name(host_ifname))

    def unplug(self, host_ifname: str, ips: Sequence[str], netns: str, ifname: str) -> bool:
        """See LinkManager."""
        try:
            index = self._devices.need(host_ifname)
            fd = self._open_namespace(netns)
        except KernelError:
            return False
        try:
            with self._pool.lend() as channel:
                self._forget(channel, ips)
                channel.transact([set_link(index, f"bring down {host_ifname}", up=False)])
            return namespaces.run_in_fd(fd, lambda: _put_away(ifname, index, f"fwx{host_ifname[3:]}"))
        except KernelError:
            return False
        finally:
            os.close(fd)

    def inside(self, netns: str, ifname: str) -> InsideState:
        """See LinkManager."""
        return survey.inside(netns, ifname)

    def read(self) -> NodeLinks:
        """See LinkManager."""
        with self._pool.lend() as channel:
            return survey.node_links(channel)

    def default_mtu(self) -> int:
        """See LinkManager."""
        with self._pool.lend() as channel:
            return survey.default_mtu(channel)

    def close(self) -> None:
        """See LinkManager."""
        self._pool.close()
        self._devices.close()

    def _open_namespace(self, path: str) -> int:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"open network namespace {path}") from error
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) == self._node:
            os.close(fd)
            raise KernelError(errno.EINVAL, f"attach to {path}", "this is the node's own network namespace")
        return fd

    def _create(self, channel: NetlinkSocket, veth: Veth, fd: int) -> None:
        master = self._devices.need(veth.master) if veth.master else 0
        request = wiring.create_pair(veth, fd, master)
        try:
            channel.transact([request])
        except KernelError as error:
            if error.errno != errno.EEXIST or self._devices.index(veth.host_ifname) is None:
                raise
            channel.transact([delete_link(veth.host_ifname), request])

    def _configure_node(self, channel: NetlinkSocket, veth: Veth) -> None:
        index = self._devices.need(veth.host_ifname)
        master = self._devices.need(veth.master) if veth.master else 0
        if not master and any(":" in address for address in veth.ips):
            self._sysctls.ensure({f"net/ipv6/conf/{veth.host_ifname}/disable_ipv6": "0"})
        if veth.loopback:
            self._sysctls.ensure({f"net/ipv4/conf/{veth.master or veth.host_ifname}/route_localnet": "1"})
        try:
            self._limit(channel, veth, index)
        except KernelError as error:
            raise shaping.explained(error) from error
        channel.transact(wiring.node_side(veth, index, master))

    def _limit(self, channel: NetlinkSocket, veth: Veth, index: int) -> None:
        """Rate limits, before the host end comes up."""
        channel.transact(shaping.limit_ingress(index, veth.host_ifname, veth.shape))
        if not veth.shape.egress_rate:
            return
        name = shaping.redirector_name(veth.host_ifname)
        channel.transact([shaping.create_redirector(veth.host_ifname, veth.mtu, VETH_GROUP)])
        redirector = self._devices.need(name)
        channel.transact([set_link(redirector, f"bring up {name}", up=True)])
        channel.transact(shaping.limit_egress(index, redirector, veth.host_ifname, veth.shape))

    def _settle(self, veth: Veth) -> None:
        self._devices.settle(veth.host_ifname)
        if veth.master:
            self._devices.settle(veth.master)

    def _undo(self, channel: NetlinkSocket, veth: Veth) -> None:
        # The failure that led here is what the caller must see.
        with suppress(KernelError):
            device = self._devices.index(veth.master or veth.host_ifname) or 0
            channel.attempt([item for address in veth.ips for item in _forget_requests(address, device)])
            channel.transact([delete_link(veth.host_ifname), shaping.delete_redirector(veth.host_ifname)])

    def _forget(self, channel: NetlinkSocket, ips: Sequence[str]) -> None:
        """Remove our routes to `ips` and the neighbours behind them; the route tells the device, so the veth may be gone."""
        requests: list[Request] = []
        for address in ips:
            device = _device_of(channel, address)
            if device:
                requests += _forget_requests(address, device)
        channel.transact(requests)


def _forget_requests(address: str, device: int) -> list[Request]:
    return [delete_host_route(address), delete_neighbour(address, device)]


def _device_of(channel: NetlinkSocket, address: str) -> int:
    """The device of our route to one address; 0 if there is none of ours."""
    found = survey.deciding_routes(channel, address)
    ours = (item for item in found if item.protocol == ROUTE_PROTOCOL and item.bits == host_bits(address))
    return next((item.device for item in ours), 0)


def _configure_inside(veth: Veth) -> None:
    """Runs on a thread inside the container's namespace."""
    ensure_here(wiring.inside_settings(veth))
    devices, channel = Devices(), NetlinkSocket()
    try:
        index = devices.need(veth.ifname)
        _set_inside(veth)
        channel.transact(wiring.inside(veth, index))
        failures = [item for item in channel.attempt(wiring.default_routes(veth, index)) if item is not None]
        if any(item.errno != errno.EEXIST for item in failures):
            raise failures[0]
        if failures:
            channel.transact(wiring.source_routes(veth, index))
        channel.transact(wiring.static_routes(veth, index))
        survey.await_addresses(channel, veth.ips)
    finally:
        channel.close()
        devices.close()


def _set_inside(veth: Veth) -> None:
    for name, value in veth.sysctls:
        if not write_here(name, value):
            raise KernelError(errno.ENOENT, f"set {name} inside", "this kernel has no such setting")


def _put_away(ifname: str, peer: int, name: str) -> bool:
    """Runs inside the container: free the name `ifname`, if it is the other end of the node's device `peer`."""
    channel = NetlinkSocket()
    try:
        found = next(decode.links(channel.query(get_link(ifname))))
        if found.peer != peer:
            return False
        rename = set_link(found.index, f"rename {ifname} inside", attr_text(IFLA_IFNAME, name))
        channel.transact([set_link(found.index, f"bring down {ifname} inside", up=False), rename])
        return True
    finally:
        channel.close()
