"""A client that is cheaper than any server it loads: batches of queries through sendmmsg, replies counted and not looked at.

No benchmark of its own: `bench/dns.py` uses it. dnsperf needs as much of its core for a query as the servers of theirs, so that
what is measured is the client, or how a server does with the small batches that a slow client leaves it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from _dns_probe import connected
from cffi import FFI

SOCKETS = 16
BATCH = 32
"""Queries that leave one socket together, and that each socket waits for at most: 512 under way in all."""
STALLED = 0.2
"""Seconds without a reply after which what a socket waits for counts as lost."""
SAMPLE = 5000
"""One reply of so many, roughly, is looked at."""
GOOD = b"\x80"
"""The second octet of the flags in a good reply: RA, NOERROR."""
ROOM = 2048

_DECLARATIONS = """
struct iovec { void *base; size_t length; };
struct msghdr { void *name; uint32_t namelen; struct iovec *iov; size_t iovlen; void *control; size_t controllen; int flags; };
struct mmsghdr { struct msghdr header; unsigned int length; };
int recvmmsg(int, struct mmsghdr *, unsigned int, int, void *);
int sendmmsg(int, struct mmsghdr *, unsigned int, int);
"""


@dataclass(frozen=True, slots=True)
class Offered:
    """What became of the queries: `sent` and `done` are counts, the latter with late answers; `qps` is without them."""

    sent: int
    done: int
    qps: float


class _Messages:
    """Buffers for one call of sendmmsg or recvmmsg."""

    def __init__(self, ffi: Any, octets: Sequence[bytes]) -> None:
        self.headers = ffi.new("struct mmsghdr[]", len(octets))
        self.rooms = [ffi.new("char[]", one) for one in octets]
        self._parts = ffi.new("struct iovec[]", len(octets))
        for number, (one, room) in enumerate(zip(octets, self.rooms, strict=True)):
            self._parts[number].base, self._parts[number].length = room, len(one)
            self.headers[number].header.iov, self.headers[number].header.iovlen = self._parts + number, 1


class _Door:
    """One socket and the batches of queries that it sends in turn."""

    def __init__(self, ffi: Any, lib: Any, made: socket.socket, batches: Iterable[Sequence[bytes]]) -> None:
        self._lib, self._null, self._fd = lib, ffi.NULL, made.fileno()
        self._batches = cycle([_Messages(ffi, batch) for batch in batches])
        self._replies = _Messages(ffi, [bytes(ROOM)] * BATCH)
        self._looked_at = 0
        self.waits = self.sent = self.done = 0
        self._since = 0.0

    def turn(self, now: float, more: bool = True) -> None:
        """Take what has come, and send the next batch when nothing is waited for."""
        if self.waits:
            self._read(now)
        if more and not self.waits:
            self._lib.sendmmsg(self._fd, next(self._batches).headers, BATCH, socket.MSG_DONTWAIT)
            self.waits, self._since = BATCH, now
            self.sent += BATCH

    def _read(self, now: float) -> None:
        count = self._lib.recvmmsg(self._fd, self._replies.headers, BATCH, socket.MSG_DONTWAIT, self._null)
        if count > 0:
            self.done += count
            self.waits, self._since = max(0, self.waits - count), now
            if self.done >= self._looked_at:
                self._looked_at = self.done + SAMPLE
                if self._replies.rooms[0][3] != GOOD:
                    raise RuntimeError("the server answers with a failure")
        elif now - self._since > STALLED:
            self.waits = 0


def saturate(host: str, port: int, queries: list[bytes], seconds: float) -> Offered:
    """Keep the server busy for so many seconds: each socket sends its next batch when the last one is answered. Raises
    RuntimeError for replies that are failures.
    """
    ffi: Any = FFI()
    ffi.cdef(_DECLARATIONS)
    lib = ffi.dlopen(None)
    with ExitStack() as stack:
        sockets = [stack.enter_context(connected(host, port)) for _ in range(SOCKETS)]
        doors = [_Door(ffi, lib, made, _batches(queries[number::SOCKETS])) for number, made in enumerate(sockets)]
        start = now = time.perf_counter()
        while now < start + seconds:
            for door in doors:
                door.turn(now)
            now = time.perf_counter()
        qps = sum(door.done for door in doors) / (now - start)
        while any(door.waits for door in doors):
            for door in doors:
                door.turn(time.perf_counter(), more=False)
        return Offered(sum(door.sent for door in doors), sum(door.done for door in doors), qps)


def _batches(queries: list[bytes]) -> Iterator[list[bytes]]:
    for first in range(0, len(queries) - BATCH + 1, BATCH):
        yield queries[first : first + BATCH]
