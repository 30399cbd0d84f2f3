"""Kernel settings of one network namespace, through /proc/sys/net as a thread inside that namespace sees it.

Names are written with dots ("net.ipv4.ip_forward") or, where an interface name holds a dot, with slashes
("net/ipv4/conf/eth0.7/rp_filter"). A setting that this kernel does not have is remembered in `missing`, never an error.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from typing import TypeVar

from fairway_core.errors import KernelError
from fairway_kernel import netns as namespaces

T = TypeVar("T")

ROOT = "/proc/sys"
ROOT_VARIABLE = "FAIRWAY_PROC_SYS"
"""Names a directory to use in place of ROOT: in a container that is not privileged ROOT is read-only, while /proc/sys/net of the
host, mounted elsewhere, is not. It shows whoever reads it the settings of their own network namespace all the same."""


def setting_path(name: str) -> str:
    """Where a setting lives. Raises ValueError for a name that leaves /proc/sys/net."""
    parts = name.split("/") if "/" in name else name.split(".")
    if parts[0] != "net" or len(parts) < 2 or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a network setting: {name!r}")
    return "/".join((os.environ.get(ROOT_VARIABLE) or ROOT, *parts))


def read_here(name: str) -> str | None:
    """The value in the calling thread's namespace, None if this kernel has no such setting. Raises KernelError."""
    try:
        fd = os.open(setting_path(name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 4096).decode().strip()
        finally:
            os.close(fd)
    except OSError as error:
        _absent(error, f"read {name}")
        return None


def write_here(name: str, value: str) -> bool:
    """Set in the calling thread's namespace; False if this kernel has no such setting. Raises KernelError."""
    try:
        fd = os.open(setting_path(name), os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        _absent(error, f"set {name} to {value}")
        return False
    return True


def ensure_here(settings: Mapping[str, str]) -> tuple[dict[str, str], frozenset[str]]:
    """Bring settings to their values in the calling thread's namespace: (old values of those changed, those missing)."""
    changed: dict[str, str] = {}
    missing: set[str] = set()
    for name, value in settings.items():
        old = read_here(name)
        if old is None:
            missing.add(name)
        elif old.split() != value.split() and write_here(name, value):
            changed[name] = old
    return changed, frozenset(missing)


class Sysctls:
    """The settings of the namespace at path `netns`, or of the process's own."""

    def __init__(self, netns: str | None = None) -> None:
        self._netns = netns
        self.missing: frozenset[str] = frozenset()
        """Settings of the last `ensure` that this kernel does not have."""

    def read(self, name: str) -> str | None:
        """The value, or None if there is no such setting. Raises KernelError."""
        return self._run(lambda: read_here(name))

    def write(self, name: str, value: str) -> bool:
        """Set it; False if there is no such setting. Raises KernelError."""
        return self._run(lambda: write_here(name, value))

    def ensure(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Bring settings to their values, writing only what differs; the old values of those changed. Raises KernelError."""
        changed, self.missing = self._run(lambda: ensure_here(settings))
        return changed

    def _run(self, function: Callable[[], T]) -> T:
        return namespaces.run_in(self._netns, function) if self._netns else function()


def _absent(error: OSError, operation: str) -> None:
    if error.errno != errno.ENOENT:
        raise KernelError(error.errno or errno.EIO, operation) from error
