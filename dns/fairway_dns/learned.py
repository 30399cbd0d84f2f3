"""Addresses that somebody is about to hear: read out of a reply, asked about (`Learned`), let through (`Admitted`). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_dns.names import MAX_NAME, ROOT, to_text
from fairway_dns.watch import Scopes, Watch
from fairway_dns.wire import AAAA, CNAME, HEADER, IN, NOERROR, A, Query, Span, Tail, WireError, read_records

WIDTHS = {A: 4, AAAA: 16}


@dataclass(frozen=True, slots=True)
class Found:
    """What a reply tells to somebody in `scopes`: `names`, each watched by one of them at least, have the `addresses` (in order)
    for `ttl` seconds.
    """

    scopes: Scopes
    names: tuple[str, ...]
    addresses: tuple[str, ...]
    ttl: int


UNREADABLE = Found((), (), (), 0)
"""Nobody can say what it tells, so it is told to nobody."""


@dataclass(frozen=True, slots=True)
class Learned:
    """From a worker: may this be told? The number of the question comes back with the answer."""

    ticket: int
    found: Found


@dataclass(frozen=True, slots=True)
class Admitted:
    """From the agent: it may for so many seconds since the question was sent; none: it may not."""

    ticket: int
    seconds: float


def fields_of(frame: Learned | Admitted) -> list[object]:
    """The frame as JSON values, its kind first."""
    if isinstance(frame, Admitted):
        return ["admitted", frame.ticket, frame.seconds]
    found = frame.found
    return ["learned", frame.ticket, list(found.scopes), list(found.names), list(found.addresses), found.ttl]


def frame_from(kind: object, fields: Sequence[object]) -> Learned | Admitted | None:
    """The frame of such values; None if there is none. Raises ValueError or TypeError for values of other types, and for what is
    no address.
    """
    match kind, fields:
        case "admitted", [int(ticket), int() | float() as seconds]:
            return Admitted(ticket, float(seconds))
        case "learned", [int(ticket), list(scopes), list(names), list(addresses), int(ttl)]:
            there = tuple(str(ip_address(str(address))) for address in addresses)
            return Learned(ticket, Found(tuple(map(int, scopes)), tuple(map(str, names)), there, ttl))
    return None


def found_in(watch: Watch, query: Query, tail: Tail, asked: bytes = b"") -> Found | None:
    """What `tail` tells to somebody with `watch`; None if nothing in it is watched.

    The name asked for counts, and `asked`, the name that an upstream was asked for; without it the reply is ours, and so are all
    names of its chain. Aliases in the answer of an upstream do not count: anybody may claim to be an alias of a watched name.
    A reply that cannot be read is `UNREADABLE`.
    """
    if query.qtype not in WIDTHS or query.qclass != IN or tail.rcode != NOERROR or not tail.answers:
        return None
    try:
        return _read(watch, query, tail, asked)
    except (IndexError, WireError):
        return UNREADABLE


def _read(watch: Watch, query: Query, tail: Tail, asked: bytes) -> Found | None:
    message = bytes(HEADER) + query.question + tail.body
    spans = list(read_records(message, HEADER + len(query.question), tail.answers))
    names = (query.name, asked) if asked else (query.name, *_aliases(message, spans))
    watched = {name: scopes for name in names if (scopes := watch.scopes(name))}
    ours = [s for s in spans if s.rtype == query.qtype and s.rclass == IN and s.end - s.data_at == WIDTHS[query.qtype]]
    if not watched or not ours:
        return None
    addresses = sorted({str(ip_address(message[span.data_at : span.end])) for span in ours})
    theirs = {scope for some in watched.values() for scope in some}
    return Found(tuple(sorted(theirs)), tuple(map(to_text, watched)), tuple(addresses), max(span.ttl for span in ours))


def _aliases(message: bytes, spans: Sequence[Span]) -> Iterator[bytes]:
    """The targets of the CNAMEs, as keys."""
    return (_name_at(message, span.data_at) for span in spans if span.rtype == CNAME)


def _name_at(message: bytes, pos: int) -> bytes:
    """A name of a message of ours, which may end in pointers, as a key."""
    labels: list[bytes] = []
    while message[pos] and sum(map(len, labels)) < MAX_NAME:
        if message[pos] >= 0xC0:
            pos = (message[pos] & 0x3F) << 8 | message[pos + 1]
        else:
            end = pos + 1 + message[pos]
            labels.append(message[pos:end].lower())
            pos = end
    return b"".join(labels) + ROOT
