"""Notices that somebody else changed our tables: listens to nftables notifications (NFNLGRP_NFTABLES).

The kernel announces every object of a transaction, then the new generation. All carry the netlink port of the socket that
committed, so our own transactions are told from foreign ones by port, not by process id: the id in NFTA_GEN_PROC_PID is that of a
thread, counted in the initial PID namespace, and means nothing inside a container.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from fairway_core.errors import KernelError
from fairway_kernel.nft import wire
from fairway_kernel.nft.dump import NETLINK_NETFILTER, netfilter_socket
from fairway_kernel.nft.objects import BRIDGE, INET, Table

_GROUP_NFTABLES = 1 << (7 - 1)
_DATAGRAM = 1 << 18
_TABLE_NAME = 1
_SO_ATTACH_FILTER = 26
_PORT_OFFSET = 12
_LOAD_WORD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FAMILY_NAMES = {number: name for name, number in wire.FAMILIES.items()}


class NftMonitor:
    """Promise: after a foreign transaction that touched one of `tables`, `fileno` becomes readable and `drain` says True once.

    Our own transactions are filtered out in the kernel, so that a first load of 100,000 elements does not wake anybody; therefore
    make it after the runner. Non-blocking; for the event loop's `add_reader`. Bound to the namespace at `netns` (None: the
    caller's). Raises KernelError if the socket cannot be had.
    """

    def __init__(self, netns: str | None = None, tables: tuple[Table, ...] = (INET, BRIDGE)) -> None:
        self._tables = frozenset((table.family, table.name) for table in tables)
        self._own = own_ports()
        self._socket = netfilter_socket(netns, _GROUP_NFTABLES)
        self._socket.setblocking(False)
        self._filter()

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._socket.fileno()

    def drain(self) -> bool:
        """Read what is there. True: our tables may have been changed by others, verify them.

        Also True if notifications were lost (ENOBUFS): what was in them is unknown.
        """
        suspicious = False
        while True:
            try:
                data = self._socket.recv(_DATAGRAM)
            except BlockingIOError:
                return suspicious
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise KernelError(error.errno or 0, "nftables notifications") from error
                suspicious = True
                continue
            # A look at the rest would not change the answer, but the socket must be emptied.
            suspicious = suspicious or any(map(self._is_foreign, wire.messages(data)))

    def close(self) -> None:
        self._socket.close()

    def _is_foreign(self, message: wire.Message) -> bool:
        if message.subsystem != wire.SUBSYSTEM or message.command == wire.NEWGEN:
            return False
        name = wire.text(dict(wire.attributes(message.body)).get(_TABLE_NAME, b""))
        if (_FAMILY_NAMES.get(message.family), name) not in self._tables:
            return False
        return message.port not in self._own and not self._is_new_own(message.port)

    def _is_new_own(self, port: int) -> bool:
        """Whether the port belongs to a socket we opened after the monitor: then learn it."""
        self._own |= own_ports()
        if port in self._own:
            self._filter()
        return port in self._own

    def _filter(self) -> None:
        """Have the kernel drop datagrams caused by our own ports. All messages of a datagram come from one transaction."""
        program = _filter_program(sorted(self._own))
        buffer = ctypes.create_string_buffer(program)
        # struct sock_fprog: count, padding, pointer.
        header = struct.pack("HP", len(program) // 8, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _filter_program(ports: list[int]) -> bytes:
    """Classic BPF: drop if the port of the first message header is one of `ports` (at most 200), else take the whole datagram."""
    ports = ports[:200]
    code = [struct.pack("HBBI", _LOAD_WORD, 0, 0, _PORT_OFFSET)]
    for index, port in enumerate(ports):
        # The load takes network order, the header is in host order. Jump over the other comparisons and the accepting return.
        value = socket.htonl(port)
        code.append(struct.pack("HBBI", _JUMP_EQUAL, len(ports) - index, 0, value))
    code.append(struct.pack("HBBI", _RETURN, 0, 0, 0xFFFFFFFF))
    code.append(struct.pack("HBBI", _RETURN, 0, 0, 0))
    return b"".join(code)


def own_ports() -> frozenset[int]:
    """The netlink ports of this process's nfnetlink sockets, libnftables' own among them."""
    return frozenset(_ports())


def _ports() -> Iterator[int]:
    for entry in Path("/proc/self/fd").iterdir():
        # Most are no sockets, and other threads close theirs meanwhile. Never duplicate and close one: closing any descriptor
        # of a file gives up this process's locks on it, see fcntl(2), and a database may be among them.
        with suppress(OSError):
            probe = socket.socket(fileno=int(entry.name))
            try:
                if probe.family == socket.AF_NETLINK and probe.proto == NETLINK_NETFILTER:
                    yield probe.getsockname()[0]
            finally:
                probe.detach()
