"""Network namespaces: make, remove, and run code inside one.

Promise: a thread that entered a namespace is never reused, except by `visit_fd`. The caller's thread, and so the event loop's,
stays where it is.
Python 3.11 has no os.setns; libc is called. Sources: setns(2), network_namespaces(7); names under /run/netns as in ip-netns(8).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

from fairway_core.errors import KernelError

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
NS_GET_NSTYPE = 0xB703
MS_BIND = 4096
MS_REC = 16384
MS_SHARED = 1 << 20
MNT_DETACH = 2
NAMED = Path("/run/netns")
OWN = "/proc/self/ns/net"
_OF_THREAD = "/proc/thread-self/ns/net"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, operation: str) -> None:
    if result != 0:
        raise KernelError(ctypes.get_errno(), operation)


def enter(path: str) -> None:
    """Move the calling thread into the namespace at `path`. For dedicated threads and fresh processes only.

    Raises KernelError: ENOENT if there is none, EINVAL if the path is no network namespace.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or 0, f"open network namespace {path}") from error
    try:
        enter_fd(fd, path)
    finally:
        os.close(fd)


def enter_fd(fd: int, name: str = "") -> None:
    """`enter` for a namespace that is already open as `fd`; `name` is for the error text."""
    _check(_libc().setns(fd, CLONE_NEWNET), f"enter network namespace {name or fd}")


def run_in(path: str, function: Callable[[], T]) -> T:
    """Run `function` inside the namespace at `path` on a thread of its own and hand back its result or exception."""
    return _on_thread(lambda: enter(path), function)


def run_in_fd(fd: int, function: Callable[[], T]) -> T:
    """`run_in` for a namespace that is already open as `fd`."""
    return _on_thread(lambda: enter_fd(fd), function)


def visit_fd(fd: int, function: Callable[[], T]) -> T:
    """Run `function` inside the open namespace `fd` on the calling thread, which comes home: ten times cheaper than a thread of
    its own. For worker threads, and short work.

    If it cannot come home the process ends, for the thread would take a container's namespace for the node's from then on.
    """
    home = os.open(_OF_THREAD, os.O_RDONLY | os.O_CLOEXEC)
    try:
        enter_fd(fd)
        try:
            return function()
        finally:
            if _libc().setns(home, CLONE_NEWNET):
                os.abort()
    finally:
        os.close(home)


def _on_thread(prepare: Callable[[], None], function: Callable[[], T]) -> T:
    outcome: list[T] = []
    failure: list[BaseException] = []

    def body() -> None:
        try:
            prepare()
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=body, name="netns", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


async def call_in(path: str, function: Callable[[], T]) -> T:
    """`run_in` for the event loop."""
    return await asyncio.to_thread(run_in, path, function)


def identity(path: str) -> tuple[int, int]:
    """Device and inode of the namespace behind `path`: equal exactly for the same namespace.

    Raises KernelError: ENOENT if there is none, EINVAL if the path is no network namespace (ioctl_ns(2)).
    """
    try:
        # A pipe in its place must not keep anybody waiting.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise KernelError(error.errno or 0, f"open network namespace {path}") from error
    try:
        if not _is_network(fd):
            raise KernelError(errno.EINVAL, f"look at {path}", "this is no network namespace")
        stat = os.fstat(fd)
        return stat.st_dev, stat.st_ino
    finally:
        os.close(fd)


def _is_network(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def create(name: str) -> str:
    """Make a named namespace, visible to `ip netns`; returns its path. Raises KernelError(EEXIST) if the name is taken."""
    NAMED.mkdir(parents=True, exist_ok=True)
    _share()
    target = NAMED / name
    try:
        os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0o444))
    except OSError as error:
        raise KernelError(error.errno or 0, f"create network namespace {name}") from error
    try:
        _on_thread(lambda: _check(_libc().unshare(CLONE_NEWNET), f"unshare for {name}"), lambda: _bind(target))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return str(target)


def _share() -> None:
    """Make the directory a shared mount of its own, as iproute2 does, so that other mount namespaces see names come and go.

    Without it, whoever does this later (a container runtime) hides our mounts below its own, and a name cannot be removed.
    """
    libc, path = _libc(), bytes(NAMED)
    if libc.mount(b"", path, b"none", MS_SHARED | MS_REC, None) == 0:
        return
    _check(libc.mount(path, path, b"none", MS_BIND | MS_REC, None), f"bind {NAMED}")
    _check(libc.mount(b"", path, b"none", MS_SHARED | MS_REC, None), f"share {NAMED}")


def _bind(target: Path) -> None:
    _check(_libc().mount(b"/proc/thread-self/ns/net", bytes(target), b"none", MS_BIND, None), f"bind {target}")


@contextmanager
def scratch() -> Iterator[str]:
    """A new namespace without a name, as a path for this process; it is gone after the block, however the process ends.

    Raises KernelError(EPERM) without CAP_SYS_ADMIN.
    """
    fd = _on_thread(
        lambda: _check(_libc().unshare(CLONE_NEWNET), "unshare"), lambda: os.open(_OF_THREAD, os.O_RDONLY | os.O_CLOEXEC)
    )
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def delete(name: str) -> None:
    """Remove a named namespace; a missing one is no error. Links inside die with the last process that uses it."""
    target = NAMED / name
    if not target.exists():
        return
    _libc().umount2(bytes(target), MNT_DETACH)
    with suppress(FileNotFoundError):
        target.unlink()
