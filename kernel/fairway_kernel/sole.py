"""One process of a kind in each network namespace.

Abstract socket addresses belong to the network namespace and go with their process, however it ends (unix(7)): a lock without a
file, seen from every container that shares the namespace, whatever else it sees.
"""

from __future__ import annotations

import errno
import socket
import struct
import time

from fairway_core.errors import UserError

PAUSE = 0.05
_CREDENTIALS = struct.Struct("=iII")


def claim(name: str, patience: float = 1.0) -> socket.socket:
    """Be the only one called `name` in this network namespace until the socket is closed.

    Blocks for `patience` seconds while another is there, for it may be just ending. Raises UserError naming its process.
    """
    holder = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    deadline = time.monotonic() + patience
    try:
        while not _bound(holder, name):
            if time.monotonic() > deadline:
                raise UserError(f"{name}: one runs in this network namespace already (process {_holder(name)})")
            time.sleep(PAUSE)
        holder.listen(1)
    except BaseException:
        holder.close()
        raise
    return holder


def _bound(holder: socket.socket, name: str) -> bool:
    try:
        holder.bind(f"\0{name}")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def _holder(name: str) -> str:
    """Its process id as this process sees it; 0 is one of a container that is not visible here."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        try:
            asking.connect(f"\0{name}")
            pid, _, _ = _CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            return "unknown"
        return str(pid)
