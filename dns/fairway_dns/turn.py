"""What leaves at the end of a piece of work instead of one by one: replies to clients and questions to upstreams.

A system call per datagram, and the waking of its receiver, costs more than all else that is done for a forwarded question.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from errno import EAGAIN, EINTR
from itertools import accumulate
from socket import MSG_DONTWAIT
from types import TracebackType
from typing import Any, Final

from cffi import FFI

SIZE: Final = 64
"""Datagrams per call."""
ROOM: Final = SIZE * 1280
"""Octets per call."""
ADDRESS: Final = 28
"""Octets of a sockaddr_in6, the longest we meet."""

_DECLARATIONS: Final = """
struct iovec { void *base; size_t length; };
struct msghdr { void *name; uint32_t namelen; struct iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; };
struct mmsghdr { struct msghdr header; unsigned int length; };
int sendmmsg(int, struct mmsghdr *, unsigned int, int);
"""

Datagram = tuple[bytes, bytes]
"""Octets, and the sockaddr they go to (empty: the socket is connected)."""


class Turn:
    """One piece of work, `with turn:`. Pieces may lie within each other; the end of the outermost one counts."""

    def __init__(self) -> None:
        self.sender = Sender()
        self._depth = 0
        self.open = False
        """Whether a piece of work is going on: then what is given to `at_end` will be called soon."""
        self._ends: list[Callable[[], None]] = []

    def at_end(self, call: Callable[[], None]) -> None:
        """Call it at the end of the piece of work."""
        self._ends.append(call)

    def __enter__(self) -> None:
        self._depth += 1
        self.open = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._depth -= 1
        self.open = self._depth > 0
        while self._ends and not self._depth:
            ends, self._ends = self._ends, []
            for call in ends:
                call()


class Sender:
    """Buffers for sendmmsg(2). Linux, 64 bit; one is enough for any number of sockets."""

    def __init__(self) -> None:
        ffi: Any = FFI()
        ffi.cdef(_DECLARATIONS)
        self._ffi, self._lib = ffi, ffi.dlopen(None)
        self._octets, self._names = ffi.new("char[]", ROOM), ffi.new("char[]", SIZE * ADDRESS)
        self._parts, self._headers = ffi.new("struct iovec[]", SIZE), ffi.new("struct mmsghdr[]", SIZE)
        for number in range(SIZE):
            header = self._headers[number].header
            header.name, header.iov, header.iovlen = self._names + number * ADDRESS, self._parts + number, 1
        self._room, self._name_room = ffi.buffer(self._octets), ffi.buffer(self._names)
        parts = memoryview(ffi.buffer(self._parts)).cast("B").cast("Q")
        self._bases, self._lengths = parts[0::2], parts[1::2]
        # msg_namelen is the low half of the second word of each header, beside four octets of padding.
        self._name_lengths = memoryview(ffi.buffer(self._headers)).cast("B").cast("Q")[1 :: ffi.sizeof("struct mmsghdr") // 8]
        self._base = int(ffi.cast("uintptr_t", self._octets))

    def send(self, fd: int, datagrams: Sequence[Datagram]) -> list[tuple[int, int]]:
        """Send all of them; which could not be sent, and why: (index, errno)."""
        failed: list[tuple[int, int]] = []
        start = 0
        while start < len(datagrams):
            chunk = datagrams[start : start + SIZE]
            # Replies over UDP are at most 1232 octets; the check is for whoever changes that.
            while sum(len(octets) for octets, _ in chunk) > ROOM and len(chunk) > 1:
                chunk = chunk[: len(chunk) // 2]
            failed += [(start + index, errno) for index, errno in self._send(fd, chunk)]
            start += len(chunk)
        return failed

    def _send(self, fd: int, chunk: Sequence[Datagram]) -> list[tuple[int, int]]:
        count = len(chunk)
        octets, names = zip(*chunk, strict=True)
        lengths = list(map(len, octets))
        data = b"".join(octets)[:ROOM]
        self._room[: len(data)] = data
        self._lengths[:count] = array("Q", lengths)
        self._bases[:count] = array("Q", accumulate(lengths[:-1], initial=self._base))
        address = b"".join(name.ljust(ADDRESS, b"\0") for name in names) if names[0] else b""
        self._name_room[: len(address)] = address
        self._name_lengths[:count] = array("Q", map(len, names))
        return self._push(fd, count)

    def _push(self, fd: int, count: int) -> list[tuple[int, int]]:
        failed: list[tuple[int, int]] = []
        first, told = 0, -1
        while first < count:
            sent = self._lib.sendmmsg(fd, self._headers + first, count - first, MSG_DONTWAIT)
            if sent > 0:
                first += sent
            elif self._ffi.errno == EINTR or (told != first and self._ffi.errno != EAGAIN):
                # What a connected socket tells first is the fate of an earlier datagram.
                told = first
            else:
                failed.append((first, self._ffi.errno))
                first += 1
        return failed
