"""One veth pair in the making: all is configured on both sides while the node's end is down; its coming up is the last step."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import shaping, survey, wiring
from fairway_kernel.link.device import Devices
from fairway_kernel.link.objects import VETH_GROUP, Veth
from fairway_kernel.link.rtnl import delete_host_route, delete_link, delete_neighbour, set_link
from fairway_kernel.netlink import NetlinkSocket, Request, SocketPool
from fairway_kernel.sysctl import Sysctls, write_here

FULL = "a bridge of Linux has 1,023 ports at most, and this one has them; mode: routed knows no such limit"


class Pair:
    """Implements `objects.PreparedLink`. One call at a time, from any thread."""

    def __init__(self, pool: SocketPool, devices: Devices, sysctls: Sysctls, veth: Veth) -> None:
        """`pool`, `devices` and `sysctls` are the node's."""
        self._pool = pool
        self._devices = devices
        self._sysctls = sysctls
        self._veth = veth
        self._inside: Devices | None = None

    def make(self, fd: int) -> None:
        """Make the pair into the namespace behind `fd`. Raises KernelError, and leaves nothing behind then."""
        with self._pool.lend() as channel:
            self._create(channel, fd)
            try:
                self._configure_node(channel, wiring.fresh_port)
                self._configure_inside(fd)
            except BaseException:
                self._undo(channel)
                raise

    def repair(self) -> None:
        """Put the node's side right, whatever it is. Raises KernelError(ENODEV) if the link or its bridge is gone."""
        with self._pool.lend() as channel:
            self._configure_node(channel, wiring.port)
            self._connect(channel)

    def connect(self) -> None:
        """See PreparedLink."""
        with self._pool.lend() as channel:
            try:
                self._connect(channel)
            except BaseException:
                self._undo(channel)
                raise

    def close(self) -> None:
        """See PreparedLink."""
        if self._inside is not None:
            self._inside.close()
            self._inside = None

    def _create(self, channel: NetlinkSocket, fd: int) -> None:
        name = self._veth.host_ifname
        request = wiring.create_pair(self._veth, fd, self._master())
        try:
            channel.transact([request])
        except KernelError as error:
            if error.errno == errno.EXFULL:
                raise KernelError(error.errno, error.operation, FULL) from error
            if error.errno != errno.EEXIST or self._devices.index(name) is None:
                raise
            channel.transact([delete_link(name), request])

    def _master(self) -> int:
        return self._devices.need(self._veth.master) if self._veth.master else 0

    def _configure_node(self, channel: NetlinkSocket, requests: wiring.PortRequests) -> None:
        """All of the node's side but what lets packets pass."""
        veth = self._veth
        index = self._devices.need(veth.host_ifname)
        if not veth.master and any(":" in address for address in veth.ips):
            self._sysctls.ensure({f"net/ipv6/conf/{veth.host_ifname}/disable_ipv6": "0"})
        if veth.loopback:
            self._sysctls.ensure({f"net/ipv4/conf/{veth.master or veth.host_ifname}/route_localnet": "1"})
        try:
            self._limit(channel, index)
        except KernelError as error:
            raise shaping.explained(error) from error
        channel.transact(requests(veth, index, self._master()))

    def _limit(self, channel: NetlinkSocket, index: int) -> None:
        """Rate limits, before the host end comes up."""
        veth = self._veth
        channel.transact(shaping.limit_ingress(index, veth.host_ifname, veth.shape))
        if not veth.shape.egress_rate:
            return
        name = shaping.redirector_name(veth.host_ifname)
        channel.transact([shaping.create_redirector(veth.host_ifname, veth.mtu, VETH_GROUP)])
        redirector = self._devices.need(name)
        channel.transact([set_link(redirector, f"bring up {name}", up=True)])
        channel.transact(shaping.limit_egress(index, redirector, veth.host_ifname, veth.shape))

    def _configure_inside(self, fd: int) -> None:
        self._inside, channel = namespaces.visit_fd(fd, self._enter)
        try:
            index = self._inside.need(self._veth.ifname)
            requests, defaults = wiring.inside(self._veth, index), wiring.default_routes(self._veth, index)
            outcome = channel.attempt([*requests, *defaults])
            _raise_first(outcome[: len(requests)])
            _raise_first(outcome[len(requests) :], errno.EEXIST)
            if any(outcome):
                channel.transact(wiring.source_routes(self._veth, index))
            survey.await_addresses(channel, self._veth.ips)
        finally:
            channel.close()

    def _enter(self) -> tuple[Devices, NetlinkSocket]:
        """Runs inside: settings, which only a thread that is there can make, and sockets, which stay there."""
        for name, value in wiring.inside_settings(self._veth).items():
            write_here(name, value)
        for name, value in self._veth.sysctls:
            if not write_here(name, value):
                raise KernelError(errno.ENOENT, f"set {name} inside", "this kernel has no such setting")
        return Devices(), NetlinkSocket()

    def _connect(self, channel: NetlinkSocket) -> None:
        veth = self._veth
        channel.transact(wiring.connection(veth, self._devices.need(veth.host_ifname), self._master()))
        for devices, name in ((self._devices, veth.host_ifname), (self._inside, veth.ifname), (self._devices, veth.master)):
            if devices and name:
                devices.settle(name)

    def _undo(self, channel: NetlinkSocket) -> None:
        veth = self._veth
        # The failure that led here is what the caller must see.
        with suppress(KernelError):
            device = self._devices.index(veth.master or veth.host_ifname) or 0
            channel.attempt([item for address in veth.ips for item in forget(address, device)])
            channel.transact([delete_link(veth.host_ifname), shaping.delete_redirector(veth.host_ifname)])


def _raise_first(outcome: Sequence[KernelError | None], tolerated: int = 0) -> None:
    for error in outcome:
        if error is not None and error.errno != tolerated:
            raise error


def forget(address: str, device: int) -> list[Request]:
    """The requests that remove our route to an address, and its neighbour on the device that the route leads to."""
    return [delete_host_route(address), delete_neighbour(address, device)]


def open_namespace(path: str, node: tuple[int, int]) -> int:
    """The namespace at `path` as a file descriptor. Raises KernelError; EINVAL if it is `node`, given by device and inode."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, f"open network namespace {path}") from error
    found = os.fstat(fd)
    if (found.st_dev, found.st_ino) == node:
        os.close(fd)
        raise KernelError(errno.EINVAL, f"attach to {path}", "this is the node's own network namespace")
    return fd
