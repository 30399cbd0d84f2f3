"""Readiness for systemd, as sd_notify(3) describes: one datagram to the socket in NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket


def sd_notify(state: str) -> bool:
    """Tell the service manager `state` ("READY=1", "STOPPING=1", "STATUS=…"). False where there is none; never raises."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    # A leading @ names the abstract namespace.
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(target)
            sender.sendall(state.encode())
    except OSError:
        return False
    return True
