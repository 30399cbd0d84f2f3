"""The worker host (`fairway dns`): starts DNS workers in place of an agent in a container, with which they must not end.

Promise: while an agent is connected the workers are its own to start, watch and replace (see `launch`); while none is, they are
kept working as the records in the run directory describe them, from the moment the host starts. What ends the host
(SIGTERM) ends its workers too. It starts DNS workers by its own interpreter and nothing else, whatever it is asked.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from fairway_dns.launch import MOST, READY_VARIABLE
from fairway_dns.process import Running, alive, ended, kill, read_pid_file, spawn, terminate
from fairway_dns.supervise import GRACE, WorkerSupervisor
from fairway_kernel.unixsocket import listen_unix

RECORDS = "dns-*.pid"
_RECORD = re.compile(r"dns-[0-9]{1,3}\.pid")


class WorkerHost:
    """Listens at `path`, beside which the records of workers are. Belongs to one event loop."""

    def __init__(self, path: Path, log: logging.Logger, python: str = sys.executable) -> None:
        self._path = path
        self._run = path.parent
        self._log = log
        self._python = python
        self._holder: socket.socket | None = None
        self._changing = asyncio.Lock()
        self._own: dict[str, tuple[WorkerSupervisor, asyncio.Task[None]]] = {}
        self._lent: list[Running] = []
        self._reaping: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled; then all workers are ended. Raises ConflictError if another host serves the directory."""
        listener = await asyncio.to_thread(listen_unix, self._path)
        listener.setblocking(False)
        clients: set[asyncio.Task[None]] = set()
        try:
            await self._take_over()
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
                task = asyncio.create_task(self._serve(client))
                clients.add(task)
                task.add_done_callback(clients.discard)
        finally:
            listener.close()
            for task in list(clients):
                task.cancel()
            await asyncio.gather(*clients, return_exceptions=True)
            await self._end_all()
            self._path.unlink(missing_ok=True)

    # Clients

    async def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        try:
            async for question in _questions(client):
                await self._answer(client, question)
        except (OSError, ValueError) as error:
            self._log.warning("a client of the worker host: %s", error)
        finally:
            client.close()
            if self._holder is client:
                self._holder = None
                self._log.info("no agent is connected; its workers are kept working from here")
                await self._take_over()

    async def _answer(self, client: socket.socket, question: Mapping[str, Any]) -> None:
        verb = question.get("verb")
        if verb == "launch" and self._holder is client:
            await self._launch(client, question)
            return
        if verb == "claim":
            await self._hand_over(client)
            answer: dict[str, Any] = {}
        elif verb == "status":
            answer = {"workers": self._workers(), "held": self._holder is not None}
        else:
            answer = {"error": f"{verb!r} is not understood, or not now"}
        await asyncio.get_running_loop().sock_sendall(client, _encoded(answer))

    async def _launch(self, client: socket.socket, question: Mapping[str, Any]) -> None:
        try:
            argv, record = self._checked(question)
            running, ready = spawn(argv, os.environ, (self._run / record).with_suffix(".log"), READY_VARIABLE)
        except (OSError, ValueError) as error:
            await asyncio.get_running_loop().sock_sendall(client, _encoded({"error": str(error)}))
            return
        self._lent = [*filter(alive, self._lent), running]
        self._reap(running)
        try:
            socket.send_fds(client, [_encoded({"pid": running.pid, "started": running.started})], [ready])
        finally:
            os.close(ready)

    def _checked(self, question: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        argv, record = question.get("argv"), question.get("record")
        if not isinstance(record, str) or not _RECORD.fullmatch(record):
            raise ValueError(f"{record!r} is not the name of a record")
        if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv) or not self._is_worker(argv):
            raise ValueError("only DNS workers are started here")
        return tuple(argv), record

    def _is_worker(self, argv: Sequence[str]) -> bool:
        return tuple(argv[:3]) == (self._python, "-m", "fairway_dns.worker")

    def _workers(self) -> dict[str, bool]:
        found = {path.name: read_pid_file(path) for path in sorted(self._run.glob(RECORDS))}
        return {name: running is not None and alive(running) for name, running in found.items()}

    # Whose the workers are

    async def _hand_over(self, client: socket.socket) -> None:
        """The newest agent has them: one that was there before is gone, or on its way out."""
        async with self._changing:
            self._holder = client
            for supervisor, task in self._own.values():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await supervisor.detach()
            self._own.clear()

    async def _take_over(self) -> None:
        async with self._changing:
            if self._holder is not None:
                return
            known: set[int] = set()
            for path in sorted(self._run.glob(RECORDS)):
                found = read_pid_file(path)
                if found is None or not self._is_worker(found.argv):
                    continue
                known.add(found.pid)
                supervisor = WorkerSupervisor(found.argv, path, self._log)
                self._own[path.name] = supervisor, asyncio.create_task(supervisor.run())
            # One that was started for an agent that did not live to write it down would answer beside those on record.
            for running in self._lent:
                if running.pid not in known:
                    await kill(running, GRACE)
            self._lent = [running for running in self._lent if running.pid in known]

    async def _end_all(self) -> None:
        for supervisor, task in self._own.values():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await supervisor.detach()
        recorded = [read_pid_file(path) for path in sorted(self._run.glob(RECORDS))]
        found = [running for running in (*recorded, *self._lent) if running is not None and self._is_worker(running.argv)]
        await asyncio.gather(*(terminate(running, GRACE) for running in {running.pid: running for running in found}.values()))

    def _reap(self, running: Running) -> None:
        task = asyncio.create_task(ended(running))
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)


def _encoded(answer: Mapping[str, Any]) -> bytes:
    return json.dumps(answer).encode() + b"\n"


async def _questions(client: socket.socket) -> AsyncIterator[Mapping[str, Any]]:
    """One JSON object per line, until the client goes. Raises ValueError for anything else."""
    data = b""
    while part := await asyncio.get_running_loop().sock_recv(client, 1 << 16):
        data += part
        *lines, data = data.split(b"\n")
        if len(data) > MOST:
            raise ValueError("a question without end")
        for line in lines:
            question = json.loads(line)
            if not isinstance(question, dict):
                raise ValueError("a question is an object")
            yield question


async def _until_told(host: WorkerHost) -> None:
    working = asyncio.create_task(host.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    with suppress(asyncio.CancelledError):
        await working


def serve(path: Path, log: logging.Logger) -> None:
    """Be a worker host until SIGTERM or SIGINT. Raises ConflictError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(_until_told(WorkerHost(path, log)))
