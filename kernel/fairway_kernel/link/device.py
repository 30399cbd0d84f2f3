"""Devices by name: index, and making the kernel notice a carrier now; the MTU towards the world.

Source: netdevice(7), linux/ethtool.h.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces

USUAL_MTU = 1500
IP_MTU, IPV6_MTU = 14, 24
WORLD = (
    (socket.AF_INET, "240.0.0.1", socket.IPPROTO_IP, IP_MTU),
    (socket.AF_INET6, "2001:db8:ffff:ffff::1", socket.IPPROTO_IPV6, IPV6_MTU),
)
"""Addresses that only a default route leads to (RFC 1112 section 4, RFC 3849), and how to ask for the MTU towards them: ip(7),
ipv6(7)."""
SIOCGIFINDEX = 0x8933
SIOCETHTOOL = 0x8946
ETHTOOL_GLINK = 0x0A


class Devices:
    """Answers about the devices of one namespace. Safe for many threads: each question is one system call."""

    def __init__(self, netns: str | None = None) -> None:
        self._socket = namespaces.run_in(netns, _datagram) if netns else _datagram()

    def index(self, name: str) -> int | None:
        """The interface index, or None if there is no such device. Raises KernelError."""
        try:
            answer = fcntl.ioctl(self._socket, SIOCGIFINDEX, struct.pack("=16si", name.encode(), 0) + b"\0" * 20)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise KernelError(error.errno or errno.EIO, f"index of {name}") from error
        found: int = struct.unpack_from("=i", answer, 16)[0]
        return found

    def need(self, name: str) -> int:
        """The interface index. Raises KernelError(ENODEV) if there is no such device."""
        index = self.index(name)
        if index is None:
            raise KernelError(errno.ENODEV, f"look up device {name}")
        return index

    def settle(self, name: str) -> bool:
        """Make the kernel act on a pending carrier change of `name` at once; tells whether it has a carrier.

        A device gets its transmit queue, and a bridge port begins to forward, in a deferred job after the carrier appears; until
        then packets are dropped in silence. Asking for the link state by ethtool runs that job first.
        """
        value = array.array("I", (ETHTOOL_GLINK, 0))
        request = struct.pack("=16sQ", name.encode(), value.buffer_info()[0]) + b"\0" * 16
        try:
            fcntl.ioctl(self._socket, SIOCETHTOOL, request)
        except OSError:
            return False
        return bool(value[1])

    def close(self) -> None:
        self._socket.close()


def world_mtu() -> int:
    """The MTU of the default route of the calling thread's namespace, IPv4 first; 1500 without one.

    Connecting a datagram socket sends nothing; it costs the same with any number of routes and waits for no lock.
    """
    for family, address, level, option in WORLD:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
            asking.connect((address, 9))
            return asking.getsockopt(level, option)
    return USUAL_MTU


def _datagram() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
