"""Notices that something of ours may have changed: rtnetlink notifications for links, addresses, routes and neighbours.

Promise: never blocks; what is told is a hint where to look, not a state. Our own changes are told as well. After the kernel
dropped notifications (ENOBUFS) the answer is {"all"}. Source: rtnetlink(7), groups in linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces
from fairway_kernel.link import decode
from fairway_kernel.link.node import is_ours_on_loopback
from fairway_kernel.link.objects import LOOPBACK_LABEL, ROUTE_PROTOCOL
from fairway_kernel.link.rtnl import (
    AF_BRIDGE,
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELNEIGH,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWROUTE,
    dump_links,
)
from fairway_kernel.netlink import NETLINK_ROUTE, NetlinkSocket, messages

EVERYTHING = "all"
PREFIX = "fw"
RTMGRP_LINK, RTMGRP_NEIGH = 0x1, 0x4
RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE = 0x10, 0x40
RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE = 0x100, 0x400
GROUPS = RTMGRP_LINK | RTMGRP_NEIGH | RTMGRP_IPV4_IFADDR | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE
RECEIVE = 1 << 16
BUFFER = 4 << 20
SO_RCVBUFFORCE = 33


class LinkMonitor:
    """Listens in the namespace at path `netns`, or in the calling thread's, from construction on."""

    def __init__(self, netns: str | None = None) -> None:
        self._socket, known = namespaces.run_in(netns, _open) if netns else _open()
        self._names = known

    def fileno(self) -> int:
        """Readable when there is something to drain."""
        return self._socket.fileno()

    def drain(self) -> set[str]:
        """Read all that waits: names of our devices (`fw…`), "route ADDRESS", "lo:fairway", or "all". Raises KernelError."""
        told: set[str] = set()
        while True:
            try:
                data = self._socket.recv(RECEIVE)
            except BlockingIOError:
                return {EVERYTHING} if EVERYTHING in told else told
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(error.errno or errno.EIO, "read link notifications") from error
                told.add(EVERYTHING)
                continue
            for kind, _, _, payload in messages(data):
                told.update(self._concerned(kind, payload))

    def close(self) -> None:
        self._socket.close()

    def _concerned(self, kind: int, payload: bytes) -> Iterator[str]:
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            # A bridge's own messages speak of its ports: there RTM_DELLINK means that a port left, not that a device went.
            yield from self._link(kind if payload[0] != AF_BRIDGE else RTM_NEWLINK, *decode.name_of(payload))
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            address = decode.address_of(payload)
            if is_ours_on_loopback(address):
                yield LOOPBACK_LABEL
            yield from self._device(address.index)
        elif kind in (RTM_NEWROUTE, RTM_DELROUTE):
            route = decode.route_of(payload)
            if route.protocol == ROUTE_PROTOCOL:
                yield f"route {route.destination}"
        elif kind in (RTM_NEWNEIGH, RTM_DELNEIGH):
            yield from self._device(decode.neighbour_of(payload).index)

    def _link(self, kind: int, index: int, name: str) -> Iterator[str]:
        # A renamed link is told under both names: the one we would look for, and the one it has now.
        yield from self._device(index)
        if name.startswith(PREFIX):
            yield name
        if kind == RTM_DELLINK:
            self._names.pop(index, None)
        elif name.startswith(PREFIX):
            self._names[index] = name
        else:
            self._names.pop(index, None)

    def _device(self, index: int) -> Iterator[str]:
        if index in self._names:
            yield self._names[index]


def _open() -> tuple[socket.socket, dict[int, str]]:
    """The listening socket, then the names as they are: nothing that happens in between is missed."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE)
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, struct.pack("=i", BUFFER))
    opened.bind((0, GROUPS))
    channel = NetlinkSocket()
    try:
        known = {item.index: item.name for item in decode.links(channel.query(dump_links())) if item.name.startswith(PREFIX)}
    finally:
        channel.close()
    return opened, known
