"""Replies of upstreams: checked, matched with their question and cut down to a tail. Pure.

The octets stay as they came: with the same question in front (its length depends on the name alone) every pointer inside stays
right, also in record types nobody here knows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from dnslib import CNAME as DnslibCname
from dnslib import RR, DNSError, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from fairway_dns.names import to_key
from fairway_dns.wire import HEADER, OPT, QR, SOA, TC, Span, Tail, WireError, read_name, read_records

MAX_RECORDS: Final = 2000
_COUNTS = struct.Struct("!HHHHHH")
_TTL = struct.Struct("!I")


class Response(NamedTuple):
    """An upstream's reply to one question. `ttl_at` are offsets of TTL fields in `tail.body`; `ttl` is how long the whole may
    be kept, in seconds (0: not at all).
    """

    tail: Tail
    ttl: int
    ttl_at: tuple[int, ...] = ()
    truncated: bool = False


def matches(data: bytes, ident: int, question: bytes) -> bool:
    """Whether `data` is a reply to `question` (lower-cased octets) with this id (RFC 5452, 9.1)."""
    if len(data) < HEADER + len(question):
        return False
    found, flags, questions = struct.unpack_from("!HHH", data)
    asked = data[HEADER : HEADER + len(question)]
    same = asked[:-4].lower() == question[:-4] and asked[-4:] == question[-4:]
    return bool(found == ident and flags & QR and questions == 1 and same)


def parse_response(data: bytes) -> Response:
    """Read a reply that `matches`. OPT is removed, and with it what follows it. Raises WireError for octets that do not hold
    what they announce.
    """
    _ident, flags, _questions, *counts = _COUNTS.unpack_from(data)
    start = read_name(data, HEADER) + 4
    if sum(counts) > MAX_RECORDS:
        raise WireError("more records than we are ready to look at")
    if flags & TC:
        return Response(Tail(flags & 0xF), 0, truncated=True)
    spans = list(read_records(data, start, sum(counts)))
    front = counts[0] + counts[1]
    extra, extended = _without_opt(spans[front:])
    spans = spans[:front] + extra
    end = spans[-1].end if spans else start
    additional_at = (spans[front - 1].end if front else start) - start
    tail = Tail(flags & 0xF | extended << 4, False, counts[0], counts[1], len(extra), data[start:end], additional_at)
    ttl = _lifetime(data, start, tail.rcode, spans[: counts[0]], spans[counts[0] : front])
    return Response(tail, ttl, tuple(span.ttl_at - start for span in spans))


def _without_opt(spans: Sequence[Span]) -> tuple[list[Span], int]:
    for index, span in enumerate(spans):
        if span.rtype == OPT:
            return list(spans[:index]), span.ttl >> 24
    return list(spans), 0


def _lifetime(data: bytes, start: int, rcode: int, answers: Sequence[Span], authority: Sequence[Span]) -> int:
    """Seconds the reply may be kept: the smallest TTL of its answers; for a denial what its SOA says; a denial without SOA is
    not kept (RFC 2308, 5).
    """
    qtype = int.from_bytes(data[start - 4 : start - 2], "big")
    soa = next((span for span in authority if span.rtype == SOA and span.end - span.data_at >= 22), None)
    ttls = [_sane(span.ttl) for span in answers]
    if rcode == 0 and any(span.rtype == qtype for span in answers):
        return min(ttls)
    if soa is None or rcode not in (0, 3):
        return 0
    minimum = _sane(_TTL.unpack_from(data, soa.end - 4)[0])
    return min([_sane(soa.ttl), minimum, *ttls])


def _sane(ttl: int) -> int:
    # RFC 2181, 8: a TTL with the top bit set counts as zero.
    return ttl if ttl < 1 << 31 else 0


def aged(response: Response, seconds: int) -> Tail:
    """The tail with every TTL reduced by `seconds` (not below zero)."""
    if seconds <= 0 or not response.ttl_at:
        return response.tail
    body = bytearray(response.tail.body)
    for offset in response.ttl_at:
        _TTL.pack_into(body, offset, max(0, _TTL.unpack_from(body, offset)[0] - seconds))
    return response.tail._replace(body=bytes(body))


def stale(response: Response, ttl: int) -> Tail:
    """The tail with every TTL set to `ttl` seconds (RFC 8767, 4)."""
    body = bytearray(response.tail.body)
    for offset in response.ttl_at:
        _TTL.pack_into(body, offset, ttl)
    return response.tail._replace(body=bytes(body))


def join_chain(name: bytes, qtype: int, chain: Sequence[tuple[bytes, int, str]], ttl: int, end: Tail) -> Tail:
    """The reply for `name`: our CNAMEs (`chain`: owner key, type, target text), then what an upstream said about the last target.

    Names are written anew, since the pointers of `end` mean another question. Raises WireError if `end` cannot be read.
    """
    target = to_key(chain[-1][2])
    head = _COUNTS.pack(0, QR, 1, end.answers, 0, 0) + target + struct.pack("!HH", qtype, 1)
    try:
        records = DNSRecord.parse(head + end.body[: end.additional_at]).rr
        ours = [RR(_label(owner), rtype, ttl=ttl, rdata=DnslibCname(_label(to_key(text)))) for owner, rtype, text in chain]
        packed = DNSRecord(DNSHeader(qr=1), q=DNSQuestion(_label(name), qtype), rr=ours + records).pack()
    except (DNSError, ValueError, struct.error) as error:
        raise WireError(f"upstream answer cannot be read: {error}") from error
    body = packed[HEADER + len(name) + 4 :]
    return Tail(end.rcode, False, len(ours) + len(records), body=body, additional_at=len(body))


def _label(key: bytes) -> DNSLabel:
    labels = []
    pos = 0
    while key[pos]:
        labels.append(key[pos + 1 : pos + 1 + key[pos]])
        pos += 1 + key[pos]
    return DNSLabel(labels)
