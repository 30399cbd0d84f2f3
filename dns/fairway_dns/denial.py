"""Denials that cover names below theirs (RFC 8020). Pure."""

from __future__ import annotations

from typing import Final

from fairway_dns.names import MAX_NAME
from fairway_dns.response import MIN_SOA, Response
from fairway_dns.wire import HEADER, NXDOMAIN, SOA, Span, Tail, WireError, read_records

NUMBERS: Final = 20
"""Octets of the five numbers at the end of SOA data."""


def covering(name: bytes, response: Response) -> Response | None:
    """The denial of `name` (a key) in a shape that stands behind any question: its SOA with all names written out. None if it
    denies something else: the end of a chain, or a name that the SOA's owner is not above.
    """
    tail = response.tail
    if tail.rcode != NXDOMAIN or tail.answers or not response.ttl_at:
        return None
    data = bytes(HEADER) + name + bytes(4) + tail.body
    try:
        spans = read_records(data, HEADER + len(name) + 4, tail.authority)
        soa = next((span for span in spans if span.rtype == SOA and span.end - span.data_at >= MIN_SOA), None)
        return None if soa is None else _written_out(name, response, data, soa)
    except WireError:
        return None


def _written_out(name: bytes, response: Response, data: bytes, soa: Span) -> Response | None:
    owner, _ = expand(data, soa.start)
    if not _is_below(name, owner.lower()):
        return None
    primary, pos = expand(data, soa.data_at)
    mailbox, pos = expand(data, pos)
    if pos != soa.end - NUMBERS:
        return None
    values = primary + mailbox + data[pos : soa.end]
    head = data[soa.data_at - 10 : soa.data_at - 2]
    body = owner + head + len(values).to_bytes(2, "big") + values
    tail = Tail(NXDOMAIN, False, 0, 1, 0, body, len(body), response.tail.ede)
    return response._replace(tail=tail, ttl_at=(len(owner) + 4,))


def _is_below(name: bytes, owner: bytes) -> bool:
    """Whether `owner` is `name` or above it, label by label."""
    pos = 0
    while len(name) - pos > len(owner):
        pos += 1 + name[pos]
    return name[pos:] == owner


def expand(data: bytes, pos: int) -> tuple[bytes, int]:
    """The name at `pos` without pointers, and the offset after it. Raises WireError; pointers must point back, each further than
    the one before (RFC 1035, 4.1.4).
    """
    made = bytearray()
    after, bound = 0, pos
    while pos < len(data):
        length = data[pos]
        if length >= 0xC0 and pos + 2 <= len(data):
            after = after or pos + 2
            pos = (length & 0x3F) << 8 | data[pos + 1]
            if pos >= bound:
                raise WireError("pointer that does not point back")
            bound = pos
        elif length > 63 or len(made) + 1 + length > MAX_NAME:
            raise WireError("unknown label type, or a name that is too long")
        else:
            made += data[pos : pos + 1 + length]
            pos += 1 + length
            if not length:
                return bytes(made), after or pos
    raise WireError("name runs out of the message")
