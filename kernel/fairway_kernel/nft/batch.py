"""Sends element operations to the kernel as one nfnetlink batch: 10 to 20 times cheaper than text for a small change."""

from __future__ import annotations

import errno
import itertools
import socket
from collections.abc import Sequence
from contextlib import suppress

from fairway_core.errors import KernelError
from fairway_kernel.netlink import limit_waiting
from fairway_kernel.nft import wire
from fairway_kernel.nft.dump import netfilter_socket

_SEND_BUFFER_FORCE = 32
_SMALLEST_BUFFER = 1 << 20
_DATAGRAM = 1 << 18
_ANSWER_SECONDS = 30


class ElementWriter:
    """Promise: `run` commits all messages or none. Bound to the namespace at `netns` (None: the caller's). Not thread-safe."""

    def __init__(self, netns: str | None = None) -> None:
        self._socket = netfilter_socket(netns)
        # A commit answers when it is done; this is for a kernel that never does.
        limit_waiting(self._socket, _ANSWER_SECONDS)
        self._buffer = 0
        self._sequence = itertools.count(1)

    def run(self, messages: Sequence[tuple[int, str, bytes]]) -> None:
        """Commit (command, family, body)s. Raises KernelError with the first refusal."""
        if not messages:
            return
        first = next(self._sequence)
        parts = [wire.batch_mark(wire.BATCH_BEGIN, first)]
        last = first
        for index, (command, family, body) in enumerate(messages, 1):
            last = next(self._sequence)
            # The acknowledgement of the last message: kernels before 6.10 do not acknowledge the end of a batch.
            parts.append(wire.change(command, family, last, body, acknowledge=index == len(messages)))
        parts.append(wire.batch_mark(wire.BATCH_END, next(self._sequence)))
        data = b"".join(parts)
        self._make_room(2 * len(data))
        try:
            self._socket.send(data)
            self._answer(first, last)
        except BlockingIOError as error:
            raise KernelError(errno.ETIMEDOUT, "nftables batch", "no answer from the kernel") from error
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, "nftables batch") from error

    def close(self) -> None:
        self._socket.close()

    def _make_room(self, size: int) -> None:
        wanted = max(size, _SMALLEST_BUFFER)
        if wanted > self._buffer:
            with suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, _SEND_BUFFER_FORCE, wanted)
            self._buffer = wanted

    def _answer(self, first: int, last: int) -> None:
        """Wait for the verdict on the last message, or on the batch as a whole (told by its first)."""
        refused = 0
        while True:
            for message in wire.messages(self._socket.recv(_DATAGRAM)):
                if message.subsystem or message.command != wire.ERROR or not first <= message.sequence <= last:
                    continue
                refused = refused or message.errno
                if message.sequence == last or (message.sequence == first and refused):
                    if refused:
                        raise KernelError(refused, "nftables batch")
                    return
