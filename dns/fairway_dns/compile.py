"""World -> records of the service zone. Pure; the zone depends on the World only.

Source: Kubernetes DNS specification, schema 1.1.0 (kubernetes/dns docs/specification.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from fairway_core.delta import DeltaTracker, Owner
from fairway_core.keys import Key
from fairway_core.model import Attachment, Endpoint, EndpointSlice, Pod, Service, family_of
from fairway_core.world import World
from fairway_dns.names import address_label, is_host_label, is_host_name, reverse_name
from fairway_dns.zone import Record, ZoneDelta

SCHEMA = "1.1.0"
WEIGHT = 100
"""SRV weight of every endpoint: equal weights mean equal shares, and a new endpoint does not change the records of the others."""


class ZoneCompiler:
    """Keeps the records of every service, pod and attachment, and tells what changed.

    Promise: after any sequence of updates `records` is what one update from an empty world would give; an update costs time
    proportional to the services, pods and attachments that `touched` concerns.
    """

    def __init__(self, domain: str = "cluster.local", nameservers: tuple[str, ...] = (), scoped: bool = False) -> None:
        """`scoped`: records say what they belong to (see `views`)."""
        self._scoped = scoped
        self.domain = domain.rstrip(".").lower()
        self._tracker: DeltaTracker[Record, bool] = DeltaTracker()
        self._tracker.declare(("Zone",), dict.fromkeys(zone_records(self.domain, nameservers), True))

    @property
    def records(self) -> frozenset[Record]:
        """The whole zone as of the last update. Costs time in its size."""
        return frozenset(self._tracker.actual)

    def update(self, before: World, after: World, touched: frozenset[Key]) -> ZoneDelta:
        """The records that appear and go between two worlds. The first call has an empty `before` and every key in `touched`."""
        for owner in _owners(before, after, touched):
            records = self._records_of(owner, after)
            self._tracker.declare(owner, dict.fromkeys(self._with_scope(owner, after, records), True))
        pending = self._tracker.pending()
        self._tracker.committed(pending)
        return ZoneDelta(frozenset(pending.add), frozenset(pending.delete))

    def _with_scope(self, owner: Owner, world: World, records: Iterator[Record]) -> Iterator[Record]:
        if not self._scoped:
            return records
        kind, namespace, name = owner
        found = world.get(Key(kind, namespace, name))
        if isinstance(found, Attachment):
            namespace = found.pod_namespace
        scope = f"{namespace}/{name}" if kind == "Service" else f"{namespace}/"
        return (replace(record, scope=scope) for record in records)

    def _records_of(self, owner: Owner, world: World) -> Iterator[Record]:
        kind, namespace, name = owner
        found = world.get(Key(kind, namespace, name))
        if isinstance(found, Service):
            return service_records(found, world.slices_of(namespace, name), self.domain)
        if isinstance(found, Pod):
            return pod_records(found, self.domain)
        if isinstance(found, Attachment):
            return alias_records(found, self.domain)
        return iter(())


def _owners(before: World, after: World, touched: Iterable[Key]) -> set[Owner]:
    owners: set[Owner] = set()
    for key in touched:
        if key.kind in ("Service", "Pod", "Attachment"):
            owners.add((key.kind, key.namespace, key.name))
        elif key.kind == "EndpointSlice":
            for item in (before.get(key), after.get(key)):
                if isinstance(item, EndpointSlice):
                    owners.add(("Service", item.meta.namespace, item.service))
    return owners


def zone_records(domain: str, nameservers: Iterable[str]) -> Iterator[Record]:
    """What the zone has of its own: schema version (2.2), name server and its addresses. The SOA is made when it is asked for."""
    yield Record(f"dns-version.{domain}", "TXT", SCHEMA)
    yield Record(domain, "NS", f"ns.dns.{domain}")
    for address in nameservers:
        yield _address(f"ns.dns.{domain}", address)


def service_records(service: Service, slices: Iterable[EndpointSlice], domain: str) -> Iterator[Record]:
    """The records of one service: by virtual IP (2.3), headless (2.4) or external name (2.5)."""
    name = f"{service.meta.name}.{service.meta.namespace}.svc.{domain}"
    if service.type == "ExternalName":
        if is_host_name(service.external_name):
            yield Record(name, "CNAME", service.external_name.rstrip(".").lower())
    elif service.headless:
        for item in slices:
            yield from _headless_records(service, item, name)
    else:
        yield from _virtual_records(service, name)


def _virtual_records(service: Service, name: str) -> Iterator[Record]:
    for address in service.cluster_ips:
        yield _address(name, address)
        yield Record(reverse_name(address), "PTR", name)
    if service.cluster_ips:
        for port in service.ports:
            if port.name:
                yield _srv(name, port.name, port.protocol, port.port, name)


def _headless_records(service: Service, item: EndpointSlice, name: str) -> Iterator[Record]:
    for endpoint in item.endpoints:
        # Addresses of one endpoint are fungible and consumers use the first (discovery.k8s.io/v1 Endpoint.addresses).
        if not endpoint.addresses or not (endpoint.ready or service.publish_not_ready):
            continue
        address = endpoint.addresses[0]
        host = f"{_host_label(endpoint)}.{name}"
        yield _address(name, address)
        yield _address(host, address)
        yield Record(reverse_name(address), "PTR", host)
        for port in item.ports:
            if port.name and port.port:
                yield _srv(name, port.name, port.protocol, port.port, host)


def _host_label(endpoint: Endpoint) -> str:
    given = endpoint.hostname.lower()
    return given if is_host_label(given) else address_label(endpoint.addresses[0])


def pod_records(pod: Pod, domain: str) -> Iterator[Record]:
    """`1-2-3-4.<namespace>.pod.<zone>` (2.6), for pods that exist only: a name made of any address proves nothing about its
    owner.
    """
    if pod.on_pod_network:
        for address in pod.ips:
            yield _address(f"{address_label(address)}.{pod.meta.namespace}.pod.{domain}", address)


def alias_records(attachment: Attachment, domain: str) -> Iterator[Record]:
    """`<alias>.<pod namespace>.pod.<zone>` for the aliases a runtime gave (CNI convention `aliases`).

    They stand under `pod`, not `svc`, so that a container cannot take the name of a service. Containers with one alias share
    it: the name has the addresses of all. An alias that is no host label is left out.
    """
    for alias in attachment.aliases:
        if is_host_label(alias.lower()):
            for address in attachment.ips:
                yield _address(f"{alias.lower()}.{attachment.pod_namespace}.pod.{domain}", address)


def _address(name: str, address: str) -> Record:
    return Record(name, "AAAA" if family_of(address) == 6 else "A", str(ip_address(address)))


def _srv(name: str, port: str, protocol: str, number: int, target: str) -> Record:
    return Record(f"_{port.lower()}._{protocol.lower()}.{name}", "SRV", f"0 {WEIGHT} {number} {target}")
