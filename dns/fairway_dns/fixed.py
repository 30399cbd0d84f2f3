"""What a worker knows from its settings, before any table comes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from fairway_dns.authority import Authorities, standard_authorities
from fairway_dns.config import WorkerConfig
from fairway_dns.names import reverse_name, to_key
from fairway_dns.zone import Record, Zone, ZoneDelta


def host_records(config: WorkerConfig) -> Iterator[Record]:
    """The records of the fixed names: addresses, and names for the addresses."""
    for name, addresses in config.hosts:
        for address in addresses:
            yield Record(name, "AAAA" if ":" in address else "A", address)
            yield Record(reverse_name(address), "PTR", name)


def empty_zone(config: WorkerConfig) -> Zone:
    """A zone with the fixed names and the names that exist always. Raises ValueError for a bad domain."""
    made = Zone((config.domain, f"svc.{config.domain}", f"pod.{config.domain}"))
    made.apply(ZoneDelta(frozenset(host_records(config))))
    return made


def authorities_of(config: WorkerConfig) -> Authorities:
    """Whose names are answered here, and nowhere else. Raises ValueError for a bad domain or CIDR."""
    return standard_authorities(config.domain, config.private, [to_key(zone) for zone, _ in config.stubs])
