"""Which name servers foreign names go to when the configuration names none: those the host itself uses."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")


def host_upstreams(own: Collection[str], path: Path = RESOLV_CONF) -> list[str]:
    """The `nameserver` lines of resolv.conf(5), without our own addresses (that would be a loop). Unreadable: none."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    words = (line.split() for line in lines)
    return [word[1] for word in words if len(word) >= 2 and word[0] == "nameserver" and word[1] not in own]
