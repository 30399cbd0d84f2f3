"""Links in the kernel, by raw rtnetlink. One attachment costs about a millisecond (bench/wire.py).

Promise: `LinkManager` of objects.py. All calls may come from many threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import decode, node, peers, shaping, survey
from fairway_kernel.link.device import Devices, world_mtu
from fairway_kernel.link.objects import ROUTE_PROTOCOL, Bridge, FarEnd, InsideState, NodeLinks, PeerRoutes, PreparedLink, Veth
from fairway_kernel.link.pair import Pair, forget, open_namespace
from fairway_kernel.link.reaper import Reaper
from fairway_kernel.link.rtnl import IFLA_IFNAME, get_link, host_bits, set_link
from fairway_kernel.link.trace import trace
from fairway_kernel.netlink import NetlinkSocket, Request, SocketPool, attr_text
from fairway_kernel.sysctl import Sysctls


class KernelLinks:
    """The links of the namespace at path `netns`, or of the calling thread's."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns
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

    def prepare(self, veth: Veth) -> PreparedLink:
        """See LinkManager."""
        fd = open_namespace(veth.netns, self._node)
        pair = Pair(self._pool, self._devices, self._sysctls, veth)
        try:
            pair.make(fd)
        except BaseException:
            pair.close()
            raise
        finally:
            os.close(fd)
        return pair

    def attach(self, veth: Veth) -> None:
        """See LinkManager."""
        with closing(self.prepare(veth)) as pair:
            pair.connect()

    def ensure_node_side(self, veth: Veth) -> None:
        """See LinkManager."""
        Pair(self._pool, self._devices, self._sysctls, veth).repair()

    def detach(self, host_ifname: str, ips: Sequence[str]) -> None:
        """See LinkManager."""
        with self._pool.lend() as channel:
            self._forget(channel, ips)
        self._reaper.delete(host_ifname, shaping.redirector_name(host_ifname))

    def unplug(self, host_ifname: str, ips: Sequence[str], netns: str, ifname: str) -> bool:
        """See LinkManager."""
        try:
            index = self._devices.need(host_ifname)
            fd = open_namespace(netns, self._node)
        except KernelError:
            return False
        try:
            with self._pool.lend() as channel:
                self._forget(channel, ips)
                channel.transact([set_link(index, f"bring down {host_ifname}", up=False)])
            return namespaces.visit_fd(fd, lambda: _put_away(ifname, index, f"fwx{host_ifname[3:]}"))
        except KernelError:
            return False
        finally:
            os.close(fd)

    def inside(self, netns: str, ifname: str) -> InsideState:
        """See LinkManager."""
        return survey.inside(netns, ifname)

    def trace(self, host_ifnames: Sequence[str]) -> Mapping[str, FarEnd]:
        """See LinkManager."""
        with self._pool.lend() as channel:
            return trace(channel, host_ifnames)

    def read(self) -> NodeLinks:
        """See LinkManager."""
        with self._pool.lend() as channel:
            return survey.node_links(channel)

    def default_mtu(self) -> int:
        """See LinkManager."""
        return namespaces.run_in(self._netns, world_mtu) if self._netns else world_mtu()

    def close(self) -> None:
        """See LinkManager."""
        self._pool.close()
        self._devices.close()

    def _forget(self, channel: NetlinkSocket, ips: Sequence[str]) -> None:
        """Remove our routes to `ips` and the neighbours behind them; the route tells the device, so the veth may be gone."""
        requests: list[Request] = []
        for address in ips:
            device = _device_of(channel, address)
            if device:
                requests += forget(address, device)
        channel.transact(requests)


def _device_of(channel: NetlinkSocket, address: str) -> int:
    """The device of our route to one address; 0 if there is none of ours."""
    found = survey.deciding_routes(channel, address)
    ours = (item for item in found if item.protocol == ROUTE_PROTOCOL and item.bits == host_bits(address))
    return next((item.device for item in ours), 0)


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
