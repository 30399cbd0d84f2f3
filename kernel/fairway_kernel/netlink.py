"""Netlink: requests as data, one socket that sends them in batches and checks every answer.

Promise: what a caller sends in one `transact` leaves in one system call per 128 requests, every refusal is read, and the first
that the request does not tolerate becomes a KernelError with the kernel's own explanation as detail.
A socket belongs to the namespace it was opened in for ever, whatever its thread does later. Sources: netlink(7), RFC 3549.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12

HEADER = struct.Struct("=IHHII")
ATTRIBUTE = struct.Struct("=HH")
BATCH = 128
"""Requests per send: all their refusals must fit the receive buffer, as they are queued before the send returns."""
RECEIVE = 1 << 16
ANSWER_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One message without its header. `operation` names it in errors; `tolerate` lists errnos that count as done."""

    kind: int
    body: bytes
    operation: str
    flags: int = 0
    tolerate: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """One message from the kernel; `payload` follows the netlink header."""

    kind: int
    flags: int
    payload: bytes


def attr(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def attr_u8(kind: int, number: int) -> bytes:
    return attr(kind, bytes((number,)))


def attr_u32(kind: int, number: int) -> bytes:
    """A 32-bit attribute in host byte order."""
    return attr(kind, struct.pack("=I", number))


def attr_be16(kind: int, number: int) -> bytes:
    """A 16-bit attribute in network byte order."""
    return attr(kind, struct.pack(">H", number))


def attr_be32(kind: int, number: int) -> bytes:
    """A 32-bit attribute in network byte order."""
    return attr(kind, struct.pack(">I", number))


def attr_text(kind: int, text: str) -> bytes:
    return attr(kind, text.encode() + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | NLA_F_NESTED, b"".join(parts))


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from `offset` on, by type without its flag bits; the last of a type wins; a torn tail is ignored."""
    found: dict[int, bytes] = {}
    end = len(payload)
    while offset + 4 <= end:
        length, kind = ATTRIBUTE.unpack_from(payload, offset)
        if length < 4 or offset + length > end:
            break
        found[kind & NLA_TYPE_MASK] = payload[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def text(data: bytes) -> str:
    """A string attribute without its terminating zero."""
    return data.rstrip(b"\0").decode(errors="replace")


def u32(data: bytes) -> int:
    """A 32-bit attribute in host byte order."""
    number: int = struct.unpack_from("=I", data)[0]
    return number


def s32(data: bytes) -> int:
    """A signed 32-bit attribute in host byte order."""
    number: int = struct.unpack_from("=i", data)[0]
    return number


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Split a datagram into (type, flags, sequence, payload)."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < 16:
            return
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


class NetlinkSocket:
    """One netlink socket in one namespace. Not for use by two threads at once: see `SocketPool`."""

    def __init__(self, netns: str | None = None, protocol: int = NETLINK_ROUTE) -> None:
        """Open in the namespace at path `netns`, or in the calling thread's. Raises KernelError."""
        self._sequence = 0
        self._socket = namespaces.run_in(netns, lambda: _open(protocol)) if netns else _open(protocol)

    def transact(self, requests: Sequence[Request]) -> None:
        """Send all and read all answers. Raises KernelError for the first failure; the later requests were still carried out."""
        failures = [failure for failure in self.attempt(requests) if failure is not None]
        if failures:
            raise failures[0]

    def attempt(self, requests: Sequence[Request]) -> list[KernelError | None]:
        """Send all and tell for each request how it went, in order; tolerated errnos count as success."""
        outcome: list[KernelError | None] = []
        for start in range(0, len(requests), BATCH):
            outcome += self._batch(requests[start : start + BATCH])
        return outcome

    def query(self, request: Request) -> list[Reply]:
        """The answers to one get or dump. A dump that the kernel says was disturbed is taken again. Raises KernelError."""
        for _ in range(20):
            replies, disturbed = self._read_all(request, self._send([request], 0))
            if not disturbed:
                break
        return replies

    def close(self) -> None:
        self._socket.close()

    def _send(self, requests: Sequence[Request], last_flags: int) -> int:
        """Send in one call, the last request with further flags; returns the sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(requests)
        parts: list[bytes] = []
        for sequence, item in enumerate(requests, first):
            flags = NLM_F_REQUEST | item.flags | (last_flags if sequence == self._sequence else 0)
            parts += (HEADER.pack(16 + len(item.body), item.kind, flags, sequence, 0), item.body)
        try:
            self._socket.send(b"".join(parts))
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, requests[0].operation) from error
        return first

    def _batch(self, requests: Sequence[Request]) -> list[KernelError | None]:
        """The kernel carries requests out in order and reports each refusal, so the last acknowledgement speaks for the rest."""
        first = self._send(requests, NLM_F_ACK)
        outcome: list[KernelError | None] = [None] * len(requests)
        while True:
            for kind, flags, sequence, payload in messages(self._receive(requests[0].operation)):
                place = sequence - first
                if kind != NLMSG_ERROR or not 0 <= place < len(requests):
                    continue
                outcome[place] = _failure(requests[place], flags, payload)
                if place == len(requests) - 1:
                    return outcome

    def _read_all(self, request: Request, sequence: int) -> tuple[list[Reply], bool]:
        replies: list[Reply] = []
        disturbed = False
        while True:
            for kind, flags, found, payload in messages(self._receive(request.operation)):
                if found != sequence:
                    continue
                disturbed |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_DONE:
                    return replies, disturbed
                if kind == NLMSG_ERROR:
                    failure = _failure(request, flags, payload)
                    if failure is not None:
                        raise failure
                    return replies, disturbed
                replies.append(Reply(kind, flags, payload))
                if not flags & NLM_F_MULTI:
                    return replies, disturbed

    def _receive(self, operation: str) -> bytes:
        try:
            return self._socket.recv(RECEIVE)
        except BlockingIOError as error:
            raise KernelError(errno.ETIMEDOUT, operation, "no answer from the kernel") from error
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, operation) from error


class SocketPool:
    """Sockets of one namespace and protocol, lent to one thread each, so that a slow request holds up nobody else."""

    def __init__(self, netns: str | None = None, protocol: int = NETLINK_ROUTE) -> None:
        self._netns = netns
        self._protocol = protocol
        self._lock = Lock()
        self._idle: list[NetlinkSocket] = []
        self._closed = False
        # The first socket is opened now: with no path given, the namespace is that of the thread that made the pool.
        self._own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC) if netns is None else -1
        self._idle.append(NetlinkSocket(netns, protocol))

    @contextmanager
    def lend(self) -> Iterator[NetlinkSocket]:
        """A socket for the length of the block. One that failed to answer is not used again."""
        with self._lock:
            lent = self._idle.pop() if self._idle else None
        lent = lent or self._open()
        try:
            yield lent
        except KernelError as error:
            if error.errno in (errno.ETIMEDOUT, errno.ENOBUFS):
                lent.close()
                lent = None
            raise
        finally:
            if lent is not None:
                self._give_back(lent)

    def close(self) -> None:
        """Close every idle socket, and the lent ones when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for item in idle:
            item.close()
        if self._own >= 0:
            os.close(self._own)
            self._own = -1

    def _open(self) -> NetlinkSocket:
        if self._netns is not None:
            return NetlinkSocket(self._netns, self._protocol)
        return namespaces.run_in_fd(self._own, lambda: NetlinkSocket(None, self._protocol))

    def _give_back(self, item: NetlinkSocket) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(item)
                return
        item.close()


def _open(protocol: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    # Older kernels lack some of these; none is needed for correctness.
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20),
        (SOL_NETLINK, NETLINK_CAP_ACK, 1),
        (SOL_NETLINK, NETLINK_EXT_ACK, 1),
        (SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1),
    ):
        with suppress(OSError):
            opened.setsockopt(level, option, value)
    limit_waiting(opened, ANSWER_SECONDS)
    opened.bind((0, 0))
    return opened


def limit_waiting(opened: socket.socket, seconds: int) -> None:
    """Let receiving end with BlockingIOError after `seconds`: the kernel's own limit (socket(7)) needs no poll(2) per call."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))


def _failure(request: Request, flags: int, payload: bytes) -> KernelError | None:
    number = -struct.unpack_from("=i", payload)[0]
    if number == 0 or number in request.tolerate:
        return None
    # With NETLINK_CAP_ACK only the header of the request is echoed: error (4) + header (16), then attributes.
    explained = attributes(payload, 20) if flags & NLM_F_ACK_TLVS else {}
    return KernelError(number, request.operation, text(explained.get(NLMSGERR_ATTR_MSG, b"")))
