"""Where worker processes are started: by the process that supervises them, or by a worker host (`fairway dns`) in its stead.

A worker that outlives the agent must not end with the agent's container, so there it is started in another one. Both share the
host's process ids: a worker is watched, recognised and ended in the same way wherever it was started.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fairway_dns.process import Running, kill, readable, spawn

READY_VARIABLE = "FAIRWAY_READY_FD"
ANSWER_SECONDS = 10.0
"""A host answers at once, but for the moment in which it hands its own workers over."""
MOST = 1 << 20
"""Octets of one message; a command line is a few thousand."""
_PEER = struct.Struct("3i")


class Launcher(Protocol):
    """Starts workers."""

    async def claim(self) -> None:
        """From now on nobody else starts workers for these records. Raises OSError if that cannot be had."""

    async def launch(self, argv: Sequence[str], pid_file: Path) -> tuple[Running, int]:
        """Start a worker, its standard error beside `pid_file`; it, and a descriptor that becomes readable when it is ready or
        ends. Raises OSError.
        """


class OwnLauncher:
    """Workers are children of this process."""

    async def claim(self) -> None:
        """Nobody else starts workers here."""

    async def launch(self, argv: Sequence[str], pid_file: Path) -> tuple[Running, int]:
        """See `Launcher.launch`."""
        return spawn(argv, os.environ, pid_file.with_suffix(".log"), READY_VARIABLE)


class HostLauncher:
    """Workers are children of the worker host that listens at `path`; see `fairway_dns.host`. Belongs to one event loop.

    While it is connected the host leaves the workers to us; when the connection ends, for whatever reason, it takes care of them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()

    async def claim(self) -> None:
        """See `Launcher.claim`."""
        async with self._turn:
            if self._socket is not None and not _ended(self._socket):
                return
            self._drop()
            try:
                await self._connect()
            except BaseException:
                self._drop()
                raise

    async def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            await asyncio.get_running_loop().sock_connect(self._socket, str(self._path))
        except OSError as error:
            raise OSError(error.errno, f"no worker host (fairway dns) listens at {self._path}: {error.strerror}") from error
        host, _, _ = _PEER.unpack(self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        if not host:
            raise OSError(f"the worker host at {self._path} does not share our process ids (hostPID)")
        await self._exchange({"verb": "claim"})

    async def launch(self, argv: Sequence[str], pid_file: Path) -> tuple[Running, int]:
        """See `Launcher.launch`. A worker that was started for somebody who was cancelled meanwhile is ended."""
        await self.claim()
        asking = asyncio.create_task(self._launch({"verb": "launch", "argv": list(argv), "record": pid_file.name}, argv))
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            running, ready = await asking
            os.close(ready)
            await kill(running, 1.0)
            raise

    async def _launch(self, question: Mapping[str, Any], argv: Sequence[str]) -> tuple[Running, int]:
        async with self._turn:
            answer, descriptors = await self._exchange(question)
            if len(descriptors) != 1:
                raise OSError("the worker host sent no descriptor with its worker")
        return Running(int(answer["pid"]), int(answer["started"]), tuple(argv)), descriptors[0]

    async def _exchange(self, question: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[int]]:
        connection = self._socket
        if connection is None:
            raise OSError("the worker host is away")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await asyncio.get_running_loop().sock_sendall(connection, json.dumps(question).encode() + b"\n")
                line, descriptors = await _line(connection)
            answer: Mapping[str, Any] = json.loads(line)
        except (OSError, TimeoutError, ValueError) as error:
            self._drop()
            raise OSError(f"the worker host at {self._path} does not answer: {error or type(error).__name__}") from error
        if "error" in answer:
            raise OSError(f"the worker host at {self._path}: {answer['error']}")
        return answer, descriptors

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Leave the workers to the host."""
        self._drop()


def ask_host(path: Path, timeout: float) -> Mapping[str, Any]:
    """The state of the host: {"workers": {record: alive}, "held": whether an agent has them}. Blocking. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.settimeout(timeout)
        asking.connect(str(path))
        asking.sendall(b'{"verb": "status"}\n')
        with asking.makefile("rb") as stream:
            try:
                answer: Mapping[str, Any] = json.loads(stream.readline(MOST))
            except ValueError as error:
                raise OSError(f"{path}: {error}") from error
    return answer


async def _line(connection: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors = b"", []
    while not data.endswith(b"\n"):
        await readable(connection.fileno())
        part, found, _flags, _address = socket.recv_fds(connection, 1 << 16, 1)
        descriptors += found
        data += part
        if not part or len(data) > MOST:
            for descriptor in descriptors:
                os.close(descriptor)
            raise OSError("the connection ended")
    return data, descriptors


def _ended(connection: socket.socket) -> bool:
    """Whether the other end is gone; it never speaks unasked."""
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
