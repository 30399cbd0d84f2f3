"""Where an answer comes from, told from the same table and by the same functions that a worker answers with. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from dnslib import DNSRecord

from fairway_dns.answer import Elsewhere, answer
from fairway_dns.complete import Completion
from fairway_dns.config import WorkerConfig
from fairway_dns.fixed import authorities_of, empty_zone, host_records
from fairway_dns.names import suffixes, to_key, to_text
from fairway_dns.protocol import Frame
from fairway_dns.question import client_query
from fairway_dns.table import Table
from fairway_dns.views import Asker
from fairway_dns.wire import CNAME, NOERROR, NXDOMAIN, RCODES, SERVFAIL, TYPES, Query, Tail, parse_query, render
from fairway_dns.zone import Names

SPECIAL = {
    "localhost": "RFC 6761, 6.3", "invalid": "RFC 6761, 6.4", "onion": "RFC 7686", "alt": "RFC 9476",
    "test": "RFC 6761, 6.2", "resolver.arpa": "RFC 9462", "arpa": "RFC 6303, RFC 7793",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Explanation:
    """One name and type, asked by one client.

    `rule` is what decides: record, host, denied, hidden, completed, special, not ready, stub, upstream or refused. `rcode` and
    `records` (presentation form) are the answer; if an upstream has it, `rcode` is empty and `servers` may be asked for
    `forwarded`. `reasons` are sentences. `owners` are the names of the table that the answer is made of.
    """

    name: str
    type: str
    rule: str
    reasons: tuple[str, ...]
    rcode: str = ""
    records: tuple[str, ...] = ()
    forwarded: str = ""
    servers: tuple[str, ...] = ()
    owners: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Hidden:
    """What a name belongs to that somebody does not see: `scope` as in `views`, and the tenant that keeps it to itself (empty:
    policy hides it).
    """

    scope: str
    tenant: str


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a search path, as it is for one client. `state` is: exists, hidden, absent, or foreign for a name that is
    passed on.
    """

    name: str
    state: str
    hidden: tuple[Hidden, ...] = ()


class Explainer:
    """Promise: `rcode` and `records` are those of a worker with the same settings and table, but for the order of records."""

    def __init__(self, config: WorkerConfig, frames: Iterable[Frame]) -> None:
        """Takes the frames of a snapshot; time in its size. Raises ProtocolError, ValueError."""
        self._config = config
        self._authorities = authorities_of(config)
        self._completion = Completion(config.domain, self._authorities)
        self._hosts = {to_key(record.name) for record in host_records(config)}
        self._table = Table(partial(empty_zone, config))
        for frame in frames:
            self._table.take(frame)

    def explain(self, name: str, qtype: int, client: bytes = b"") -> Explanation:
        """What `client` (a packed address, empty: one nothing is known of) gets for a name. Raises ValueError for what is no
        name.
        """
        query = parse_query(client_query(b"\0\0", to_key(name), qtype))
        assert query is not None
        asker = self._table.views.asker(client)
        seen = self._table.seen(asker.sight)
        found = answer(seen, self._authorities, query)
        if isinstance(found, Tail) and found.rcode == NXDOMAIN and asker.namespace:
            completed = self._completion.complete(seen, query, asker.namespace, found, 0)
            if completed is not found:
                return self._told(query, completed, *self._completed(query, completed))
        return self._told(query, found, *self._rule(query, found, seen, asker))

    def look(self, name: str, client: bytes = b"") -> Step:
        """What a name by itself is for `client`, without its search path. Raises ValueError for what is no name."""
        key, asker = to_key(name), self._table.views.asker(client)
        whole, seen = self._table.zone.find(key), self._table.seen(asker.sight).find(key)
        if seen is not None:
            return Step(to_text(key), "exists")
        scopes = {*((whole.scopes or {}).values() if whole is not None else ())}
        reasons = ((scope, self._table.views.hidden_by(asker.sight, scope)) for scope in sorted(scopes))
        hidden = tuple(Hidden(scope, by) for scope, by in reasons if by is not None)
        if hidden:
            return Step(to_text(key), "hidden", hidden)
        return Step(to_text(key), "foreign" if self._authorities.of(key) is None else "absent")

    def _told(self, query: Query, found: Tail | Elsewhere, rule: str, *reasons: str) -> Explanation:
        name, rtype = to_text(query.name), _type_name(query.qtype)
        if isinstance(found, Tail):
            records = _records(query, found)
            owners = tuple(dict.fromkeys([name, *(record.split(" ")[0].rstrip(".") for record in records)]))
            return Explanation(name, rtype, rule, reasons, RCODES.get(found.rcode, str(found.rcode)), records, owners=owners)
        chain = tuple(f"{to_text(owner)}. 5 IN CNAME {data}." for owner, _, data in found.chain)
        zone, servers = self._servers(found.name)
        more = (*reasons, f"{to_text(found.name)} is asked of {zone}" if servers else f"there is no server for {zone}")
        owners = tuple(to_text(owner) for owner, _, _ in found.chain)
        return Explanation(name, rtype, rule, more, "", chain, to_text(found.name), servers, owners)

    def _rule(self, query: Query, found: Tail | Elsewhere, seen: Names, asker: Asker) -> tuple[str, ...]:
        whole, visible = self._table.zone.find(query.name), seen.find(query.name)
        if query.name in self._hosts:
            return "host", "a fixed name of the configuration (dns.hosts)"
        if visible is not None and (query.qtype in visible.sets or CNAME in visible.sets):
            return "record", f"the table of revision {seen.revision} has it"
        if whole is not None and whole.sets and visible is None:
            tenant = asker.sight.tenant
            return "hidden", f"the name exists, but not for {f'tenant {tenant}' if tenant else 'clients of no tenant'}"
        if isinstance(found, Elsewhere):
            return "stub" if self._stub(found.name) else "upstream", "no name of ours"
        if found.rcode not in (NOERROR, NXDOMAIN, SERVFAIL):
            return "refused", found.text or "not a question that is answered or passed on"
        return self._denied(query, visible is not None)

    def _denied(self, query: Query, exists: bool) -> tuple[str, ...]:
        authority = self._authorities.of(query.name)
        if authority is None:
            return "refused", "not a question that is answered or passed on"
        apex = to_text(authority.origin)
        if authority.synced and self._table.zone.revision is None:
            return "not ready", "there is no table of names yet"
        if authority.synced:
            text = f"has no record of type {_type_name(query.qtype)}" if exists else "does not exist"
            return "denied", f"the table of revision {self._table.zone.revision} is the whole truth for {apex}; the name {text}"
        source = SPECIAL.get(apex) or SPECIAL.get(apex.rpartition(".")[2], "")
        return "special", f"names of {apex} are answered here and never forwarded ({source})"

    def _completed(self, query: Query, found: Tail | Elsewhere) -> tuple[str, ...]:
        if isinstance(found, Tail):
            target = _records(query, found)[0].split(" ")[-1]
        else:
            target = found.chain[0][2]
        return "completed", f"the name does not exist; the search path of its sender leads to {target.rstrip('.')}"

    def _stub(self, name: bytes) -> str:
        zones = dict(self._config.stubs)
        return next((to_text(suffix) for _, suffix in suffixes(name) if to_text(suffix) in zones), "")

    def _servers(self, name: bytes) -> tuple[str, tuple[str, ...]]:
        zone = self._stub(name)
        servers = dict(self._config.stubs)[zone] if zone else self._config.upstreams
        return f"the servers of stub zone {zone}" if zone else "the upstreams", tuple(map(str, servers))


def _records(query: Query, tail: Tail) -> tuple[str, ...]:
    """The answer section in presentation form, fields a space apart."""
    reply = DNSRecord.parse(render(query, tail, tcp=True))
    return tuple(" ".join(record.toZone().split()) for record in reply.rr)


def _type_name(qtype: int) -> str:
    return next((name for name, number in TYPES.items() if number == qtype), f"TYPE{qtype}")
