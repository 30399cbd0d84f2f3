"""Many datagrams per system call: recvmmsg and sendmmsg over buffers made once, through cffi in ABI mode (no compiler).

One call costs what one datagram used to cost, so under load the price of a system call is shared by up to 64 queries.
"""

from __future__ import annotations

import socket
import struct
from array import array
from collections.abc import Sequence
from errno import EAGAIN, EINTR
from itertools import accumulate
from typing import Any, Final

from cffi import FFI

SIZE: Final = 64
"""Datagrams per call."""
SLOT: Final = 4160
"""Octets per received datagram: more than the largest query we take, so that a longer one is seen to be longer."""
OUT: Final = SIZE * 1280
"""Octets of replies per call: each is at most 1232."""
SHORT: Final = 16
"""Octets of a sockaddr_in."""
ADDRESS: Final = 28
"""Octets of a sockaddr_in6, the longest we meet."""
RETRIES: Final = 3

_DECLARATIONS = """
struct iovec { void *base; size_t length; };
struct msghdr { void *name; uint32_t namelen; struct iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; };
struct mmsghdr { struct msghdr header; unsigned int length; };
int recvmmsg(int, struct mmsghdr *, unsigned int, int, void *);
int sendmmsg(int, struct mmsghdr *, unsigned int, int);
ssize_t sendto(int, const char *, size_t, int, const char *, uint32_t);
"""


class Batch:
    """Buffers for one UDP socket, which must not block. Linux, 64 bit (recvmmsg(2), sendmmsg(2)).

    Promise: nothing raises for what the network does; what cannot be sent is dropped and counted by the result.
    """

    def __init__(self, listener: socket.socket) -> None:
        ffi: Any = FFI()
        ffi.cdef(_DECLARATIONS)
        self._ffi, self._lib, self._fd = ffi, ffi.dlopen(None), listener.fileno()
        self._address = SHORT if listener.family == socket.AF_INET else ADDRESS
        self._inputs, self._outputs = ffi.new("char[]", SIZE * SLOT), ffi.new("char[]", OUT)
        self._names = ffi.new("char[]", SIZE * ADDRESS)
        self._in_parts, self._out_parts = ffi.new("struct iovec[]", SIZE), ffi.new("struct iovec[]", SIZE)
        self._received, self._sent = ffi.new("struct mmsghdr[]", SIZE), ffi.new("struct mmsghdr[]", SIZE)
        for number in range(SIZE):
            self._in_parts[number].base = self._inputs + number * SLOT
            self._in_parts[number].length = SLOT
            self._prepare(self._received[number].header, self._in_parts + number, number)
            self._prepare(self._sent[number].header, self._out_parts + number, number)
        self._views()

    def _prepare(self, header: Any, part: Any, number: int) -> None:
        header.name, header.namelen = self._names + number * ADDRESS, self._address
        header.iov, header.iovlen = part, 1

    def _views(self) -> None:
        """Views that let one Python call read or write a field of all headers."""
        ffi = self._ffi
        self._in = ffi.buffer(self._inputs)
        self._out = ffi.buffer(self._outputs)
        self._name_octets = ffi.buffer(self._names)
        header = ffi.sizeof("struct mmsghdr")
        received = memoryview(ffi.buffer(self._received)).cast("B").cast("I")
        self._lengths = received[ffi.offsetof("struct mmsghdr", "length") // 4 :: header // 4]
        parts = memoryview(ffi.buffer(self._out_parts)).cast("B").cast("Q")
        self._out_bases, self._out_lengths = parts[0::2], parts[1::2]
        self._out_names = memoryview(ffi.buffer(self._sent)).cast("B").cast("Q")[:: header // 8]
        self._out_base = int(ffi.cast("uintptr_t", self._outputs))
        name_base = int(ffi.cast("uintptr_t", self._names))
        self._all_names = [name_base + number * ADDRESS for number in range(SIZE)]
        self._straight = array("Q", self._all_names)
        self._in_order = list(range(SIZE))
        self._bent = False
        self._starts = range(0, SIZE * SLOT, SLOT)

    def receive(self) -> list[bytes]:
        """Up to SIZE datagrams that have arrived; none if there are none. The place in the list is the slot of the sender."""
        for _ in range(RETRIES):
            count = self._lib.recvmmsg(self._fd, self._received, SIZE, socket.MSG_DONTWAIT, self._ffi.NULL)
            if count >= 0:
                read = self._in
                lengths = self._lengths[:count].tolist()
                return [read[start : start + length] for start, length in zip(self._starts, lengths, strict=False)]
            if self._ffi.errno in (EAGAIN, EINTR):
                break
        # Else an ICMP error of an earlier reply: it says nothing about the next datagram, which is read at the next try.
        return []

    def sender(self, slot: int) -> bytes:
        """The address (a sockaddr) that the datagram in `slot` of the last `receive` came from."""
        start = slot * ADDRESS
        octets: bytes = self._name_octets[start : start + self._address]
        return octets

    def origin(self) -> tuple[bytes, bytes]:
        """The address that the first datagram came from: as a sockaddr, and packed."""
        sender: bytes = self._name_octets[: self._address]
        return sender, sender[4:8] if self._address == SHORT else sender[8:24]

    def clients(self, count: int) -> list[bytes]:
        """The packed addresses that the first `count` datagrams of the last `receive` came from."""
        first, last = (4, 8) if self._address == SHORT else (8, 24)
        names = self._name_octets[: count * ADDRESS]
        return [names[start + first : start + last] for start in range(0, count * ADDRESS, ADDRESS)]

    def send(self, pieces: Sequence[bytes], lengths: list[int], slots: list[int]) -> int:
        """Send replies to the senders in `slots`; reply n is the next `lengths[n]` octets of all pieces joined. How many left."""
        count = len(lengths)
        data = b"".join(pieces)
        self._out[0 : len(data)] = data
        self._out_lengths[:count] = array("Q", lengths)
        self._out_bases[:count] = array("Q", accumulate(lengths[:-1], initial=self._out_base))
        straight = slots == self._in_order[:count]
        if not straight:
            names = self._all_names
            self._out_names[:count] = array("Q", [names[slot] for slot in slots])
        elif self._bent:
            self._out_names[:] = self._straight
        self._bent = not straight
        return self._push(count)

    def _push(self, count: int) -> int:
        first = left = 0
        while first < count:
            sent = self._lib.sendmmsg(self._fd, self._sent + first, count - first, socket.MSG_DONTWAIT)
            if sent > 0:
                left += sent
                first += sent
            else:
                # The first of the rest cannot be sent (buffer full, client unreachable): as good as lost on the way.
                first += 1
        return left

    def send_to(self, reply: bytes, sender: bytes) -> bool:
        """Send one reply to an address from `sender`; whether it left."""
        sent: int = self._lib.sendto(self._fd, reply, len(reply), socket.MSG_DONTWAIT, sender, len(sender))
        return sent >= 0


def client_of(sender: bytes) -> bytes:
    """The address in a sockaddr, packed: 4 or 16 octets."""
    return sender[4:8] if len(sender) == SHORT else sender[8:24]


def host_of(sender: bytes) -> str:
    """The address in a sockaddr as text."""
    family = struct.unpack_from("=H", sender)[0]
    if family == socket.AF_INET:
        return socket.inet_ntop(socket.AF_INET, sender[4:8])
    return socket.inet_ntop(socket.AF_INET6, sender[8:24])
