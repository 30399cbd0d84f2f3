"""What a client may ask about the server itself, by EDNS options. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_dns.wire import KEEPALIVE, MAX_OPTION, NSID, Query, pack_option


@dataclass(frozen=True, slots=True)
class Identity:
    """What clients that ask for it are told: the name of this server (RFC 5001; empty: nothing) and after how many idle seconds
    it closes TCP connections (RFC 7828).
    """

    name: str = ""
    keepalive: float = 10.0

    def options(self, query: Query, tcp: bool) -> bytes:
        """The EDNS options of the reply. Keepalive is for TCP only (RFC 7828, 3.2.1)."""
        made = b""
        if NSID in query.wants and self.name:
            made += pack_option(NSID, self.name.encode()[:MAX_OPTION])
        if KEEPALIVE in query.wants and tcp:
            made += pack_option(KEEPALIVE, int(self.keepalive * 10).to_bytes(2, "big"))
        return made
