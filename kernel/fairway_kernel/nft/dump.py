"""Reads nf_tables through a netlink socket. The only reader; writing is `libnft`'s business."""

from __future__ import annotations

import errno
import itertools
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel.netns import run_in
from fairway_kernel.nft import listing, wire
from fairway_kernel.nft.fields import same_elements, shape_of
from fairway_kernel.nft.markers import LAYOUT_PREFIX, RULES_PREFIX, digest_in, is_marker
from fairway_kernel.nft.objects import Elements, ElementValue, Layout, SetShape, Slot, Table, TableState

NETLINK_NETFILTER = 12
_RECEIVE_BUFFER_FORCE = 33
_RECEIVE_BYTES = 4 << 20
_DATAGRAM = 1 << 18
_ATTEMPTS = 10
_PAUSE_SECONDS = 0.01
_TABLE_NAME, _TABLE_FLAGS, _GENERATION_ID = 1, 2, 1
_DORMANT = 0x1
_TABLE_ATTRIBUTE, _SET_ATTRIBUTE = 1, 2


class KernelReader:
    """Promise: what `read` returns stood in the kernel at one moment, between two transactions.

    Bound for life to the network namespace at `netns` (None: the caller's), whatever thread uses it. Not thread-safe.
    """

    def __init__(self, netns: str | None = None) -> None:
        self._socket = netfilter_socket(netns)
        self._sequence = itertools.count(1)

    def read(self, table: Table, layout: Layout, elements: bool = True) -> TableState | None:
        """The table, or None if there is none. Raises KernelError; EINTR if others commit faster than we can read."""
        for attempt in range(_ATTEMPTS):
            # Hash tables grow in the background after a large commit: give them time.
            time.sleep(attempt * _PAUSE_SECONDS)
            before = self._generation()
            try:
                state = self._read_once(table, layout, elements)
            except KernelError as error:
                # ENOENT: a set went between two requests. EINTR: the dump is torn.
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
                continue
            if self._generation() == before:
                return state
        raise KernelError(errno.EINTR, f"read table {table}", "other programs keep changing nftables")

    def close(self) -> None:
        self._socket.close()

    def _read_once(self, table: Table, layout: Layout, elements: bool) -> TableState | None:
        flags = self._table_flags(table)
        if flags is None:
            return None
        own = wire.name_attribute(_TABLE_ATTRIBUTE, table.name)
        chains = listing.chain_states(
            table.name, self._dump(wire.GETCHAIN, table.family), self._dump(wire.GETRULE, table.family, own)
        )
        shapes = dict(filter(None, map(listing.set_shape, self._dump(wire.GETSET, table.family, own))))
        names = frozenset(chains)
        plain = {name: state for name, state in chains.items() if not is_marker(name)}
        return TableState(
            sets=frozenset(shapes),
            chains=frozenset(plain),
            elements=self._elements(layout, shapes) if elements else {},
            layout_hash=digest_in(names, LAYOUT_PREFIX),
            rules_hash=digest_in(names, RULES_PREFIX),
            markers=frozenset(filter(is_marker, names)),
            shapes=shapes,
            chain_states=plain,
            dormant=bool(flags & _DORMANT),
        )

    def _table_flags(self, table: Table) -> int | None:
        for body in self._dump(wire.GETTABLE, table.family):
            found = dict(wire.attributes(body))
            if wire.text(found[_TABLE_NAME]) == table.name:
                return wire.number(found.get(_TABLE_FLAGS, b""))
        return None

    def _elements(self, layout: Layout, shapes: Mapping[str, SetShape]) -> Elements:
        result: dict[Slot, ElementValue] = {}
        for decl in layout.sets:
            shape = shapes.get(decl.name)
            # A set of another shape under our name cannot be decoded; its owner makes it anew.
            if decl.dynamic or shape is None or not same_elements(shape, shape_of(decl)):
                continue
            names = wire.name_attribute(_TABLE_ATTRIBUTE, decl.table.name) + wire.name_attribute(_SET_ATTRIBUTE, decl.name)
            found = listing.elements(decl, self._dump(wire.GETSETELEM, decl.table.family, names))
            result.update((Slot(decl.name, key), value) for key, value in found.items())
        return result

    def _generation(self) -> bytes:
        sequence = next(self._sequence)
        self._socket.send(wire.request(wire.GETGEN, "", sequence, dump=False))
        for message in self._answers(sequence):
            if message.subsystem:
                return dict(wire.attributes(message.body)).get(_GENERATION_ID, b"")
            if message.errno:
                raise KernelError(message.errno, "read the nftables generation")
        raise KernelError(errno.EIO, "read the nftables generation")

    def _dump(self, command: int, family: str, body: bytes = b"") -> list[bytes]:
        sequence = next(self._sequence)
        self._socket.send(wire.request(command, family, sequence, body))
        found: list[bytes] = []
        torn = False
        for message in self._answers(sequence):
            torn = torn or bool(message.flags & wire.DUMP_INTERRUPTED)
            if message.subsystem:
                found.append(message.body)
                continue
            if message.errno:
                raise KernelError(message.errno, "nftables dump")
            break
        if torn:
            raise KernelError(errno.EINTR, "nftables dump")
        return found

    def _answers(self, sequence: int) -> Iterator[wire.Message]:
        """Messages that answer `sequence`; what an earlier, broken-off dump left behind is passed over."""
        while True:
            try:
                data = self._socket.recv(_DATAGRAM)
            except OSError as error:
                raise KernelError(error.errno or 0, "nftables dump") from error
            yield from (message for message in wire.messages(data) if message.sequence == sequence)


def netfilter_socket(netns: str | None, groups: int = 0) -> socket.socket:
    """A nfnetlink socket that lives in the namespace at `netns` (None: the caller's). Raises KernelError."""

    def open_socket() -> socket.socket:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
        with suppress(OSError):
            opened.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _RECEIVE_BYTES)
        opened.bind((0, groups))
        return opened

    try:
        return open_socket() if netns is None else run_in(netns, open_socket)
    except OSError as error:
        raise KernelError(error.errno or 0, "open netlink socket") from error
