"""Tracked connections of what comes and goes: addresses of containers, and ports of the node."""

from __future__ import annotations

from collections.abc import Sequence

from fairway_core.model import HostPort
from fairway_kernel.conntrack import Conntrack, Match

UDP = 17


def forget_addresses(conntrack: Conntrack, ips: Sequence[str]) -> None:
    """Forget what is tracked of `ips`. Raises KernelError."""
    for ip in ips:
        conntrack.flush_address(ip)


def forget_unserved(conntrack: Conntrack, ports: Sequence[HostPort]) -> None:
    """UDP entries that ask for one of the ports and were never translated: their senders met no container. Raises KernelError."""
    wanted = {port.host_port for port in ports if port.protocol == "udp"}
    # One listing for all ports: on a busy node it is hundreds of thousands of entries.
    asked = [entry for entry in conntrack.entries(Match(UDP)) if entry.orig.dst_port in wanted] if wanted else []
    unserved = [entry for entry in asked if entry.reply.src == entry.orig.dst and entry.reply.dst == entry.orig.src]
    conntrack.forget([Match(UDP, entry.orig) for entry in unserved])
