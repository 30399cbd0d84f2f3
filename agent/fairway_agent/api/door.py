"""The control socket's door: calls as our own plugin sends them are carried out right there, the rest is the HTTP server's.

A runtime waits for every plugin call, and the general way through the HTTP server costs a tenth of it. What is read here is one
fixed form, whole in one piece; anything else, the same call in other words included, is handed on unread.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from fairway_cni.handler import Answer

CALL: Final = re.compile(
    rb"POST /v1/cni HTTP/1\.1\r\nHost: fairway\r\nConnection: close\r\n"
    rb"Content-Type: application/octet-stream\r\nContent-Length: ([0-9]{1,7})\r\n\r\n"
)
"""The head that cni/shim/shim.c sends."""
EXIT_HEADER: Final = "X-Fairway-Exit"
LOOK = 1 << 17
"""Octets looked at: more than any call of a runtime has."""
PAUSE_SECONDS = 1.0
"""Rest after a connection could not be accepted, for want of descriptors."""

Call = Callable[[bytes], Awaitable[Answer]]
"""From the body of a CNI call to its answer. Never raises."""


def whole_call(data: bytes) -> bytes | None:
    """The body of the call that `data` is; None if it is something else, or not all of it."""
    head = CALL.match(data)
    if head is None or head.end() + int(head[1]) != len(data):
        return None
    return data[head.end() :]


class Door:
    """Accepts connections of `listener`, which it owns. Belongs to one event loop."""

    def __init__(self, listener: socket.socket, call: Call, others: Callable[[], asyncio.Protocol], log: logging.Logger) -> None:
        """`others` makes the protocol of a connection that is not a plugin's."""
        self._listener = listener
        self._call = call
        self._others = others
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._silent: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        listener.setblocking(False)

    def open(self) -> None:
        """Begin to accept."""
        self._loop.add_reader(self._listener, self._accept)

    async def close(self, patience: float) -> None:
        """Accept no more; calls under way have `patience` seconds. Idempotent."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for silent in list(self._silent):
            self._forget(silent)
            silent.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=patience)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _accept(self) -> None:
        while True:
            try:
                one, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._log.error("a connection cannot be accepted", extra={"error": str(error)})
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            one.setblocking(False)
            self._look(one)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self.open()

    def _look(self, one: socket.socket) -> None:
        """Without taking anything, so that the HTTP server finds all of it."""
        try:
            data = one.recv(LOOK, socket.MSG_PEEK)
        except BlockingIOError:
            if one not in self._silent:
                self._silent.add(one)
                self._loop.add_reader(one, self._look, one)
            return
        except OSError:
            data = b""
        self._forget(one)
        body = whole_call(data)
        self._start(self._hand_over(one) if body is None else self._carry_out(one, body, len(data)))

    def _forget(self, one: socket.socket) -> None:
        if one in self._silent:
            self._silent.discard(one)
            self._loop.remove_reader(one)

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hand_over(self, one: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._others, one)
        except OSError as error:
            one.close()
            self._log.info("a connection was gone before it was served", extra={"error": str(error)})

    async def _carry_out(self, one: socket.socket, body: bytes, size: int) -> None:
        with one:
            one.recv(size)
            answer = await self._call(body)
            try:
                await self._loop.sock_sendall(one, _response(answer))
            except OSError as error:
                self._log.info("a CNI caller did not wait for its answer", extra={"error": str(error)})


def _response(answer: Answer) -> bytes:
    head = (
        f"HTTP/1.1 200 OK\r\n{EXIT_HEADER}: {answer.exit_code}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(answer.body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + answer.body
