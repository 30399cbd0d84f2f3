"""nfnetlink on the wire: messages and attributes of the nf_tables subsystem. Pure.

Source: include/uapi/linux/netlink.h, netfilter/nfnetlink.h, netfilter/nf_tables.h. Header fields are in host byte order,
numbers inside nf_tables attributes in network byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SUBSYSTEM = 10
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN = 3, 4
NEWRULE, GETRULE = 6, 7
NEWSET, GETSET = 9, 10
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGEN, GETGEN = 15, 16

REQUEST, DUMP, DUMP_INTERRUPTED = 0x001, 0x300, 0x010
ACKNOWLEDGE, CREATE = 0x004, 0x400
ERROR, DONE = 2, 3
BATCH_BEGIN, BATCH_END = 16, 17
FAMILIES = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}

_HEADER = struct.Struct("=IHHII")
_GENERIC = struct.Struct("=BBH")
_ATTRIBUTE = struct.Struct("=HH")
_ERRNO = struct.Struct("=i")
_TYPE_MASK = 0x3FFF


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message. `subsystem` and `command` split the type; `body` is what follows the nfgenmsg header, or the
    payload of a control message (`subsystem` 0). `port` is the netlink port of the socket that caused it."""

    subsystem: int
    command: int
    flags: int
    sequence: int
    port: int
    family: int
    body: bytes

    @property
    def errno(self) -> int:
        """The positive errno of an ERROR or DONE message; 0 is success."""
        return -_ERRNO.unpack_from(self.body)[0] if len(self.body) >= _ERRNO.size else 0


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order; a cut-off tail is left out."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            return
        payload = data[offset + _HEADER.size : offset + length]
        subsystem, command = kind >> 8, kind & 0xFF
        if subsystem and len(payload) >= _GENERIC.size:
            yield Message(subsystem, command, flags, sequence, port, payload[0], payload[_GENERIC.size :])
        elif not subsystem:
            yield Message(0, command, flags, sequence, port, 0, payload)
        offset += (length + 3) & ~3


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each attribute, nesting and byte-order flags removed."""
    offset, end = 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & _TYPE_MASK, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def name_attribute(kind: int, name: str) -> bytes:
    """An attribute holding a NUL-terminated name."""
    return attribute(kind, name.encode() + b"\0")


def request(command: int, family: str, sequence: int, body: bytes = b"", *, dump: bool = True) -> bytes:
    """A request for a dump, or for one object."""
    payload = _GENERIC.pack(FAMILIES.get(family, 0), 0, 0) + body
    flags = REQUEST | (DUMP if dump else 0)
    return _HEADER.pack(_HEADER.size + len(payload), SUBSYSTEM << 8 | command, flags, sequence, 0) + payload


def change(command: int, family: str, sequence: int, body: bytes, *, acknowledge: bool) -> bytes:
    """One change inside a batch."""
    payload = _GENERIC.pack(FAMILIES[family], 0, 0) + body
    flags = REQUEST | (CREATE if command == NEWSETELEM else 0) | (ACKNOWLEDGE if acknowledge else 0)
    return _HEADER.pack(_HEADER.size + len(payload), SUBSYSTEM << 8 | command, flags, sequence, 0) + payload


def batch_mark(kind: int, sequence: int) -> bytes:
    """Begin or end of a batch for nf_tables; the subsystem stands in network order."""
    payload = struct.pack("=BB", 0, 0) + SUBSYSTEM.to_bytes(2, "big")
    return _HEADER.pack(_HEADER.size + len(payload), kind, REQUEST, sequence, 0) + payload


def text(payload: bytes) -> str:
    """A NUL-terminated name."""
    return payload.split(b"\0", 1)[0].decode(errors="replace")


def number(payload: bytes) -> int:
    """An unsigned number in network byte order; absent (empty) is 0."""
    return int.from_bytes(payload, "big")
