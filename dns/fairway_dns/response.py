"""Replies of upstreams: checked, matched with their question and cut down to a tail. Pure.

The octets stay as they came, but for the TTL of a denial's SOA: with the same question in front (its length depends on the name
alone) every pointer inside stays right, also in record types nobody here knows.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from dnslib import CNAME as DnslibCname
from dnslib import RR, DNSError, DNSHeader, DNSLabel, DNSQuestion, DNSRecord

from fairway_dns.names import to_key
from fairway_dns.wire import EDE, HEADER, MIN_RECORD, NOERROR, NXDOMAIN, OPT, QR, SOA, TC, Tail, WireError, read_name, skip_name

MAX_RECORDS: Final = 2000
NEVER: Final = (1 << 31) - 1
"""More seconds than any TTL has."""
MIN_SOA: Final = 22
"""Octets of SOA data: two root names and five numbers."""
EDE_OTHER, EDE_STALE, EDE_CACHED_ERROR, EDE_UNREACHABLE, EDE_NETWORK = 0, 3, 13, 22, 23
"""RFC 8914, 4: something else; a stale answer; a failure remembered; no server answered; none could be spoken to."""
_COUNTS = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_PAIR = struct.Struct("!HH")
_TTL = struct.Struct("!I")


class Response(NamedTuple):
    """An upstream's reply to one question. `ttl_at` are offsets of TTL fields in `tail.body`; `ttl` is how long the whole may
    be kept, in seconds (0: not at all).
    """

    tail: Tail
    ttl: int
    ttl_at: tuple[int, ...] = ()
    truncated: bool = False


def matches(data: bytes, question: bytes) -> bool:
    """Whether `data` is a reply to `question`, octet by octet, so in the case it was asked in (RFC 5452, 9.1). The id is what it
    was found by.
    """
    return len(data) >= HEADER and data[2] >= 0x80 and data[4:6] == b"\0\1" and data.startswith(question, HEADER)


def matches_but_case(data: bytes, question: bytes) -> bool:
    """Whether only the case of letters keeps `data` from being a reply to `question`."""
    asked = data[HEADER : HEADER + len(question)]
    same = asked[:-4].lower() == question[:-4].lower() and asked[-4:] == question[-4:]
    return same and matches(data, asked)


def parse_response(data: bytes, start: int = 0) -> Response:
    """Read a reply that `matches`, whose question ends at `start` (0: not known yet). OPT is removed, and with it what follows
    it. Raises WireError for octets that do not hold what they announce.
    """
    if len(data) < HEADER:
        raise WireError("shorter than a header")
    start = start or read_name(data, HEADER) + 4
    _ident, flags, _questions, answers, authority, additional = _COUNTS.unpack_from(data)
    count = answers + authority + additional
    if flags & TC:
        return Response(Tail(flags & 0xF), 0, truncated=True)
    if count > MAX_RECORDS or count * MIN_RECORD > len(data) - start:
        raise WireError("more records than the message can hold, or than we are ready to look at")
    try:
        return _scan(data, start, flags & 0xF, answers, answers + authority, count)
    except (IndexError, struct.error) as error:
        raise WireError("record runs out of the message") from error


def _scan(data: bytes, start: int, rcode: int, answers: int, front: int, count: int) -> Response:
    """Walk over `count` records from `start` on, `answers` of them in the answer section, `front` before the additional one."""
    pos = last = additional_at = start
    size, qtype = len(data), _PAIR.unpack_from(data, start - 4)[0]
    least, soa_ttl, soa_at, hit, extra, ede = NEVER, -1, 0, False, 0, None
    ttl_at = []
    for index in range(count):
        # A pointer to the question is how nearly every owner is written.
        if data[pos] == 0xC0 and data[pos + 1] == HEADER:
            pos += 2
        else:
            pos = skip_name(data, pos)
        rtype, _rclass, ttl, length = _FIXED.unpack_from(data, pos)
        end = pos + 10 + length
        if end > size:
            raise WireError("record data runs out of the message")
        if rtype == OPT and index >= front:
            rcode, ede = rcode | ttl >> 24 << 4, _ede(data[end - length : end]) if length else None
            break
        # RFC 2181, 8: a TTL with the top bit set counts as zero.
        if ttl > NEVER:
            ttl = 0
        ttl_at.append(pos + 4 - start)
        if index < answers:
            if ttl < least:
                least = ttl
            hit = hit or rtype == qtype
        elif rtype == SOA and index < front and soa_ttl < 0 and length >= MIN_SOA:
            soa_ttl, soa_at = min(ttl, _sane(_TTL.unpack_from(data, end - 4)[0])), pos + 4 - start
        pos = last = end
        if index < front:
            additional_at = end
        else:
            extra += 1
    body = data[start:last] if hit or soa_ttl < 0 else _with_ttl(data[start:last], soa_at, soa_ttl)
    tail = Tail(rcode, False, answers, front - answers, extra, body, additional_at - start, ede)
    return Response(tail, _lifetime(rcode, least if hit else -1, least, soa_ttl), tuple(ttl_at))


def _with_ttl(body: bytes, offset: int, ttl: int) -> bytes:
    """RFC 2308, 3: a denial whose SOA has a longer TTL would have its time counted anew by whoever keeps it after us."""
    return body[:offset] + _TTL.pack(ttl) + body[offset + 4 :]


def _lifetime(rcode: int, found: int, least: int, soa_ttl: int) -> int:
    """Seconds a reply may be kept: the smallest TTL of its answers (`found`, below zero without an answer of the type); for a
    denial what its SOA says (`soa_ttl`; RFC 2308, 5) and any CNAMEs before it (`least`); a denial without SOA is not kept.
    """
    if found >= 0 and rcode == NOERROR:
        return found
    if soa_ttl < 0 or rcode not in (NOERROR, NXDOMAIN):
        return 0
    return min(soa_ttl, least)


def _ede(options: bytes) -> int | None:
    """The first extended error in the data of an OPT record (RFC 8914)."""
    pos = 0
    while pos + 6 <= len(options):
        code, length = _PAIR.unpack_from(options, pos)
        if code == EDE and length >= 2:
            return int.from_bytes(options[pos + 4 : pos + 6], "big")
        pos += 4 + length
    return None


def _sane(ttl: int) -> int:
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
    return response.tail._replace(body=bytes(body), ede=EDE_STALE, text="")


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
