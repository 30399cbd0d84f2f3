"""(zone table, query) -> reply tail. Pure: no socket, no clock.

Order of judgement: faults of the message, class, meta types, records of the table, the apex the name belongs to, elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fairway_dns.authority import Authorities, Authority
from fairway_dns.names import to_key, to_text
from fairway_dns.records import Offsets, pack_own, pack_record, question_offsets
from fairway_dns.wire import (
    AAAA,
    ANY,
    AXFR,
    CNAME,
    FORMERR,
    HINFO,
    IN,
    IXFR,
    NOERROR,
    NOTIMP,
    NS,
    NXDOMAIN,
    OPT,
    REFUSED,
    SERVFAIL,
    SOA,
    SRV,
    A,
    Query,
    Tail,
)
from fairway_dns.zone import TTL, Names, Node

MAX_CHAIN = 8
MAX_ROTATIONS = 16
MAX_GLUE = 32
EDE_OTHER, EDE_NOT_READY, EDE_PROHIBITED, EDE_NOT_AUTHORITATIVE, EDE_NOT_SUPPORTED = 0, 14, 18, 20, 21
"""RFC 8914, 4."""
ANY_TTL = 3789
META_TYPES = range(128, 255)
UNUSUAL = frozenset((OPT, *META_TYPES))

Owned = tuple[bytes, int, str]
"""A record about to be written: owner key, type, data."""


class Elsewhere(NamedTuple):
    """The answer lies with an upstream: ask for `name` (a key). `chain` is the CNAMEs that led there, to be put in front of
    its answer. `denial` is what to answer if there is no such name, instead of the chain with that news at its end.
    """

    name: bytes
    chain: tuple[Owned, ...] = ()
    denial: Tail | None = None


def failure(rcode: int, ede: int | None = None, text: str = "") -> Tail:
    """A reply without records, with the reason (RFC 8914) for clients that speak EDNS."""
    return Tail(rcode, ede=ede, text=text)


def answer(zone: Names, authorities: Authorities, query: Query, turn: int = 0) -> Tail | Elsewhere:
    """The reply, or where to get it. `turn` rotates the order of several records, so that clients which take the first spread
    out.

    Promise: unknown types of existing names give NODATA, unknown names NXDOMAIN, both with the SOA at TTL = min(SOA TTL,
    MINIMUM) (RFC 2308, 3); before the first synchronisation the service zone gives SERVFAIL. Raises ValueError if the table
    holds data that does not fit its type.
    """
    if query.fault:
        return failure(query.fault)
    if query.qclass != IN or query.qtype in UNUSUAL:
        refused = _refusal(query)
        if refused is not None:
            return refused
    node = zone.find(query.name)
    if node is not None and node.sets and query.qtype != ANY:
        built = node.tails.get(query.qtype)
        if built is not None:
            return built[turn % len(built)]
    authority = authorities.of(query.name)
    if node is None and authority is None and query.qtype != ANY:
        return Elsewhere(query.name)
    if authority is not None and authority.synced and zone.revision is None:
        return failure(SERVFAIL, EDE_NOT_READY, "no table of names from the agent yet")
    if query.qtype == ANY:
        return _any(zone, authority, query, node)
    return _look_up(zone, authorities, authority, query, node, turn)


def _refusal(query: Query) -> Tail | None:
    if query.qclass != IN:
        return failure(REFUSED, EDE_NOT_SUPPORTED, "only class IN is served")
    if query.qtype in (AXFR, IXFR):
        return failure(REFUSED, EDE_PROHIBITED, "zones are not transferred")
    if query.qtype == OPT:
        return failure(FORMERR)
    return failure(NOTIMP) if query.qtype in META_TYPES else None


def _any(zone: Names, authority: Authority | None, query: Query, node: Node | None) -> Tail:
    """One small answer for ANY (RFC 8482, 4.2), also for foreign names: nobody needs us to gather theirs."""
    if authority is not None and not _exists(authority, query.name, node):
        return _denial(authority, query, zone, NXDOMAIN)
    offsets = question_offsets(query.name)
    body = pack_record(query.name, HINFO, ANY_TTL, "RFC8482|", offsets)
    return Tail(0, authority is not None, 1, body=body, additional_at=len(body))


def _exists(authority: Authority, name: bytes, node: Node | None) -> bool:
    return node is not None or name == authority.origin or bool(authority.everywhere)


def _look_up(
    zone: Names, authorities: Authorities, authority: Authority | None, query: Query, node: Node | None, turn: int
) -> Tail | Elsewhere:
    if node is not None and (query.qtype in node.sets or CNAME in node.sets):
        return _positive(zone, authorities, query, node, turn)
    if authority is None and node is not None and node.sets and query.qtype in (A, AAAA):
        # A name that is only given one family here must not be asked for elsewhere, where it does not exist: a client that
        # hears NXDOMAIN for one type gives up the other (RFC 4074, 3).
        return Tail(NOERROR, True)
    if authority is None:
        return Elsewhere(query.name)
    if query.name == authority.origin and query.qtype in (SOA, NS) and not authority.everywhere:
        return _apex(authority, query, zone)
    if query.qtype in authority.everywhere:
        body = pack_record(
            query.name, query.qtype, authority.ttl, authority.everywhere[query.qtype], question_offsets(query.name)
        )
        return Tail(0, True, 1, body=body, additional_at=len(body))
    return _denial(authority, query, zone, 0 if _exists(authority, query.name, node) else NXDOMAIN)


def _positive(zone: Names, authorities: Authorities, query: Query, node: Node, turn: int) -> Tail | Elsewhere:
    if query.qtype in node.sets:
        data = node.sets[query.qtype]
        own = query.qtype != SRV
        tails = own_tails(query.name, query.qtype, data) if own else _tails(zone, query, [], query.name, data)
        zone.keep_tails(node, query.qtype, tails, foreign=not own)
        return tails[turn % len(tails)]
    return chained(zone, authorities, query, *_follow(zone, query.name, node), turn)


def chained(zone: Names, authorities: Authorities, query: Query, chain: list[Owned], name: bytes, turn: int) -> Tail | Elsewhere:
    """The reply when CNAMEs (`chain`) lead from the query's name to `name`."""
    last = zone.find(name)
    if last is not None and query.qtype in last.sets:
        tails = _tails(zone, query, chain, name, last.sets[query.qtype])
        return tails[turn % len(tails)]
    target = authorities.of(name)
    if target is None and last is None:
        return Elsewhere(name, tuple(chain))
    if len(chain) > MAX_CHAIN:
        return failure(SERVFAIL, EDE_OTHER, f"more than {MAX_CHAIN} CNAMEs in a row")
    return _chain_end(zone, target, query, chain, name)


def follow(zone: Names, name: bytes) -> tuple[list[Owned], bytes]:
    """The CNAMEs of the table from a name on, and the name they lead to."""
    return _follow(zone, name, zone.find(name))


def _follow(zone: Names, name: bytes, node: Node | None) -> tuple[list[Owned], bytes]:
    chain: list[Owned] = []
    while node is not None and CNAME in node.sets and len(chain) <= MAX_CHAIN:
        data = node.sets[CNAME][0]
        chain.append((name, CNAME, data))
        name = to_key(data)
        node = zone.find(name)
    return chain, name


def _chain_end(zone: Names, authority: Authority | None, query: Query, chain: list[Owned], name: bytes) -> Tail:
    """A chain that ends inside our names without the type: its CNAMEs, then the denial of its last name (RFC 2308, 2.1)."""
    offsets = question_offsets(query.name)
    front = b"".join(pack_record(owner, rtype, TTL, text, offsets) for owner, rtype, text in chain)
    if authority is None:
        return Tail(0, True, len(chain), body=front, additional_at=len(front))
    if query.qtype in authority.everywhere:
        front += pack_record(name, query.qtype, authority.ttl, authority.everywhere[query.qtype], offsets)
        return Tail(0, True, len(chain) + 1, body=front, additional_at=len(front))
    rcode = 0 if _exists(authority, name, zone.find(name)) else NXDOMAIN
    body = front + _soa_record(authority, zone, offsets)
    return Tail(rcode, True, len(chain), 1, body=body, additional_at=len(body))


def _tails(zone: Names, query: Query, chain: list[Owned], owner: bytes, data: list[str]) -> tuple[Tail, ...]:
    """The same records in up to 16 rotations."""
    offsets = question_offsets(query.name)
    front = b"".join(pack_record(name, rtype, TTL, text, offsets) for name, rtype, text in chain)
    packed = [pack_record(owner, query.qtype, TTL, text, offsets) for text in data]
    glue = _glue(zone, data, offsets) if query.qtype == SRV else []
    return _rotated(packed, len(chain), front, glue)


def own_tails(name: bytes, qtype: int, data: list[str]) -> tuple[Tail, ...]:
    """The replies that the records of the name itself make, SRV apart: they say nothing of other names. Raises ValueError for
    data that does not fit its type.
    """
    return _rotated(pack_own(name, qtype, TTL, data))


def _rotated(packed: list[bytes], chain: int = 0, front: bytes = b"", glue: Sequence[bytes] = ()) -> tuple[Tail, ...]:
    end, count, made = b"".join(glue), chain + len(packed), []
    for first in range(min(len(packed), MAX_ROTATIONS)):
        body = front + b"".join(packed[first:] + packed[:first])
        made.append(Tail(0, True, count, 0, len(glue), body + end, len(body)))
    return tuple(made)


def _glue(zone: Names, data: list[str], offsets: Offsets) -> list[bytes]:
    """Addresses of SRV targets, which spare the client a second query (specification 2.3.2: MAY). Never more than a few."""
    glue: list[bytes] = []
    for target in sorted({text.split(" ")[3] for text in data})[:MAX_GLUE]:
        key = to_key(target)
        node = zone.find(key)
        for rtype in (A, AAAA):
            for address in node.sets.get(rtype, ())[:MAX_GLUE] if node is not None else ():
                glue.append(pack_record(key, rtype, TTL, address, offsets))
    return glue[:MAX_GLUE]


def _soa_record(authority: Authority, zone: Names, offsets: Offsets) -> bytes:
    serial = (zone.revision or 1) & 0xFFFFFFFF
    return pack_record(authority.origin, SOA, authority.ttl, authority.soa.format(serial=serial), offsets)


def _apex(authority: Authority, query: Query, zone: Names) -> Tail:
    offsets = question_offsets(query.name)
    if query.qtype == SOA:
        body = _soa_record(authority, zone, offsets)
    else:
        primary = authority.soa.split(" ")[0] if authority.synced else to_text(authority.origin)
        body = pack_record(authority.origin, NS, authority.ttl, primary, offsets)
    return Tail(0, True, 1, body=body, additional_at=len(body))


def _denial(authority: Authority, query: Query, zone: Names, rcode: int) -> Tail:
    """NXDOMAIN or NODATA with the SOA that lets it be cached (RFC 2308, 2)."""
    body = _soa_record(authority, zone, question_offsets(query.name))
    return Tail(rcode, True, 0, 1, body=body, additional_at=len(body))
