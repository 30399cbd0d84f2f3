"""For which names we are the end of the road: the service zone, reverse zones of our own ranges, and names that must never
leave the machine.

Sources: RFC 6761 (localhost, invalid, test), RFC 7686 (onion), RFC 9476 (alt), RFC 9462 (resolver.arpa: an
upstream's answer would lead clients past us, to it), RFC 6303 and RFC 7793 (reverse zones of private ranges).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fairway_dns.names import reverse_name, reverse_zones, to_key
from fairway_dns.wire import AAAA, PTR, A
from fairway_dns.zone import TTL

LOCAL_TTL = 10800

PRIVATE_RANGES = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24",
    "192.168.0.0/16", "198.51.100.0/24", "203.0.113.0/24", "255.255.255.255/32",
    "::/128", "::1/128", "fd00::/8", "fe80::/10", "2001:db8::/32",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Authority:
    """One apex we answer for. `synced` tells that its names come from the agent: before the first table the answer is
    SERVFAIL, never a denial. `everywhere` holds data that every name at and below the apex has, by type. `ttl` in seconds,
    for denials.
    """

    origin: bytes
    soa: str
    ttl: int = TTL
    synced: bool = False
    everywhere: Mapping[int, str] = field(default_factory=dict)


class Authorities:
    """Apexes by key. The longest apex that a name ends in decides; none, or one of `stubs`: the name is forwarded."""

    def __init__(self, items: Iterable[Authority], stubs: Iterable[bytes] = ()) -> None:
        self._by_origin: dict[bytes, Authority | None] = {item.origin: item for item in items}
        for origin in stubs:
            self._by_origin[origin] = None

    def of(self, name: bytes) -> Authority | None:
        """The authority for a key."""
        by_origin, pos = self._by_origin, 0
        # `suffixes`, written out: this is asked for every name.
        while name[pos]:
            suffix = name[pos:]
            if suffix in by_origin:
                return by_origin[suffix]
            pos += 1 + name[pos]
        return None


def standard_authorities(domain: str, private: Iterable[str] = (), stubs: Iterable[bytes] = ()) -> Authorities:
    """The service zone, the reverse zones of `private` (CIDRs of services and pods), and the special names. `stubs` are apexes
    (keys) that others answer for.

    Raises ValueError for a bad domain or CIDR.
    """
    special = [_empty(zone) for cidr in PRIVATE_RANGES for zone in reverse_zones(cidr)]
    special += [_empty(name) for name in ("invalid", "onion", "alt", "test", "resolver.arpa")]
    special.append(_fixed("localhost", {A: "127.0.0.1", AAAA: "::1"}))
    special += [_fixed(reverse_name(address), {PTR: "localhost"}) for address in ("127.0.0.1", "::1")]
    own = [_synced(zone, domain) for cidr in private for zone in reverse_zones(cidr)]
    return Authorities((*special, *own, _synced(domain, domain)), stubs)


def _synced(zone: str, domain: str) -> Authority:
    # The serial is the table's revision, filled in when it is asked for.
    soa = f"ns.dns.{domain} hostmaster.{domain} {{serial}} 7200 1800 86400 {TTL}"
    return Authority(to_key(zone), soa, synced=True)


def _empty(zone: str) -> Authority:
    return Authority(to_key(zone), f"{zone} nobody.invalid 1 3600 1200 604800 {LOCAL_TTL}", LOCAL_TTL)


def _fixed(zone: str, everywhere: Mapping[int, str]) -> Authority:
    return Authority(to_key(zone), f"{zone} nobody.invalid 1 3600 1200 604800 {LOCAL_TTL}", LOCAL_TTL, everywhere=everywhere)
