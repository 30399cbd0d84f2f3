"""The real runner: text transactions through libnftables in process; elements, the hot path, and reads straight over netlink.

The only file that loads libnftables (PyPI `pip-nftables` over Debian's libnftables1). The library's socket and its interface
look-ups belong to the thread that calls it, so a runner for another network namespace owns a thread that lives there.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fairway_core.errors import KernelError
from fairway_kernel.netns import enter
from fairway_kernel.nft.batch import ElementWriter
from fairway_kernel.nft.dump import KernelReader
from fairway_kernel.nft.encode import messages
from fairway_kernel.nft.faults import kernel_error
from fairway_kernel.nft.objects import Layout, Table, TableState
from fairway_kernel.nft.transaction import Transaction

T = TypeVar("T")


class LibnftablesRunner:
    """Implements NftRunner. Thread-safe: calls are carried out one after the other.

    `netns` is a path such as /run/netns/node, None for the namespace of the caller, who must then stay in it.
    `elements_over_netlink` lets transactions of nothing but elements pass by the library. Raises KernelError
    ENOENT for a missing namespace or library; ImportError without the Python package.
    """

    def __init__(self, netns: str | None = None, elements_over_netlink: bool = True) -> None:
        self._elements = elements_over_netlink
        self._lock = threading.Lock()
        self._worker = None if netns is None else ThreadPoolExecutor(1, "nft")
        try:
            self._library: Any = self._call(lambda: _open_library(netns))
            self._reader = KernelReader(netns)
            self._writer = ElementWriter(netns)
        except BaseException:
            if self._worker is not None:
                self._worker.shutdown()
            raise

    def run(self, transaction: Transaction) -> None:
        """Commit. Raises KernelError with the kernel's errno and the place in the script it refused."""
        with self._lock:
            if self._elements and self._run_elements(transaction):
                return
            script = str(transaction)
            if script:
                self._call(lambda: self._commit(script))

    def read(self, table: Table, layout: Layout, elements: bool = True) -> TableState | None:
        """See NftRunner."""
        with self._lock:
            return self._reader.read(table, layout, elements)

    def close(self) -> None:
        """Release library, sockets and thread. Calling it again does nothing."""
        with self._lock:
            self._reader.close()
            self._writer.close()
            self._library = None
            if self._worker is not None:
                self._worker.shutdown()

    def _run_elements(self, transaction: Transaction) -> bool:
        """Whether the transaction was nothing but elements and is committed. If it was refused, text is tried after it: that
        explains in words, and knows every kernel's ways."""
        try:
            batch = messages(transaction.operations)
            if batch is None:
                return False
            self._writer.run(batch)
        except (KernelError, ValueError):
            return False
        return True

    def _call(self, function: Callable[[], T]) -> T:
        return function() if self._worker is None else self._worker.submit(function).result()

    def _commit(self, script: str) -> None:
        # Through a memory file and not as a string: only then the library tells the line it refuses.
        fd = os.memfd_create("fairway-nft")
        try:
            with os.fdopen(os.dup(fd), "wb") as stream:
                stream.write(script.encode())
            failed, _output, report = self._library.cmd(f'include "/proc/self/fd/{fd}"')
        finally:
            os.close(fd)
        if failed:
            raise kernel_error(script, report)


def _open_library(netns: str | None) -> Any:
    if netns is not None:
        enter(netns)
    import nftables

    try:
        return nftables.Nftables()
    except OSError as error:
        raise KernelError(errno.ENOENT, "load libnftables", str(error)) from error
