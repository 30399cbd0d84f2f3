"""Detached processes: start, recognise after our own restart, watch, end. Linux only (pidfd_open(2), proc(5))."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

READY_FD = 3


@dataclass(frozen=True, slots=True)
class Running:
    """A process that cannot be mistaken for another: pid, start time in clock ticks since boot, command line."""

    pid: int
    started: int
    argv: tuple[str, ...]


def spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, ready_variable: str) -> tuple[Running, int]:
    """Start `argv` in a session of its own, standard error appended to `log`. Returns it and a descriptor that becomes
    readable when it says it is ready, or ends. Raises OSError.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
            (os.POSIX_SPAWN_DUP2, write_end, READY_FD),
        ]
        if write_end == READY_FD:
            # dup2 onto itself would keep the close-on-exec flag.
            os.set_inheritable(write_end, True)
            actions.pop()
        words = {**environment, ready_variable: str(READY_FD)}
        pid = os.posix_spawn(argv[0], list(argv), words, file_actions=actions, setsid=True)
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
        os.close(output)
    return Running(pid, start_time(pid) or 0, tuple(argv)), read_end


def start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None if there is none or it is a zombie."""
    state, started = _stat(pid)
    return None if state in "ZX" else started


def _stat(pid: int) -> tuple[str, int]:
    """State and start time; "X" and 0 if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    except (OSError, ValueError, IndexError):
        return "X", 0


def alive(running: Running) -> bool:
    """Whether exactly this process runs: same pid, start time and command line."""
    if start_time(running.pid) != running.started:
        return False
    try:
        line = Path(f"/proc/{running.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return line.split(b"\0")[:-1] == [word.encode() for word in running.argv]


def read_pid_file(path: Path) -> Running | None:
    """What an earlier `write_pid_file` left, if it can be read."""
    try:
        found = json.loads(path.read_text())
        return Running(int(found["pid"]), int(found["started"]), tuple(str(word) for word in found["argv"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_pid_file(path: Path, running: Running) -> None:
    """Replace the file in one step. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps({"pid": running.pid, "started": running.started, "argv": running.argv}))
    temporary.replace(path)


async def ended(running: Running) -> None:
    """Wait until the process is gone, whether it is our child or not, and reap it if it is."""
    try:
        descriptor = os.pidfd_open(running.pid)
    except ProcessLookupError:
        return
    try:
        # Not `alive`: a process that is about to end has lost its command line already, but cannot be reaped yet.
        if _stat(running.pid)[1] == running.started:
            await readable(descriptor)
    finally:
        os.close(descriptor)
    with suppress(ChildProcessError):
        os.waitpid(running.pid, os.WNOHANG)  # noqa: ASYNC222 (WNOHANG does not wait)


async def readable(descriptor: int) -> None:
    """Wait until a descriptor can be read or its other end is closed."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    loop.add_reader(descriptor, wake)
    try:
        await future
    finally:
        loop.remove_reader(descriptor)


async def terminate(running: Running, grace: float) -> None:
    """SIGTERM, and SIGKILL after `grace` seconds. A process that is gone is no error."""
    await _signal(running, signal.SIGTERM, grace)
    await kill(running, grace)


async def kill(running: Running, grace: float) -> None:
    """SIGKILL, and wait at most `grace` seconds. A process that is gone is no error."""
    await _signal(running, signal.SIGKILL, grace)


async def _signal(running: Running, number: int, grace: float) -> None:
    if not alive(running):
        return
    with suppress(ProcessLookupError):
        os.kill(running.pid, number)
    with suppress(TimeoutError):
        async with asyncio.timeout(grace):
            await ended(running)
