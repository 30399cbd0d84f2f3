"""DNS messages on the wire: queries in, replies out (RFC 1035, RFC 6891).

Queries are checked octet by octet before anything is built from them: counts are bounded before any loop, so that a hostile
message costs no more than a good one. A reply is id + flags + the question exactly as received + a `Tail`, so that mixed case
(0x20) costs nothing and tails can be built ahead of time.

What is made per message is a named tuple: making a frozen dataclass takes four times as long.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from fairway_dns.names import MAX_NAME

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS: Final = 16
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED", 16: "BADVERS"}

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 41, 251, 252, 255
TYPES = {
    "A": A, "NS": NS, "CNAME": CNAME, "SOA": SOA, "PTR": PTR, "HINFO": HINFO, "MX": MX, "TXT": TXT, "AAAA": AAAA, "SRV": SRV,
    "ANY": ANY, "SVCB": 64, "HTTPS": 65,
}  # fmt: skip
TYPE_NAMES = {number: name for name, number in TYPES.items()}
IN: Final = 1

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE_MASK, OPCODE_NOTIFY, OPCODE_UPDATE = 0x7800, 4, 5
DO: Final = 0x8000

HEADER: Final = 12
MIN_UDP: Final = 512
UDP_PAYLOAD: Final = 1232
"""What we send and advertise over UDP: fits every path without fragmentation (DNS flag day 2020)."""
MAX_TCP: Final = 65535
MAX_QUERY: Final = 4096
MAX_ADDITIONAL: Final = 8
MIN_RECORD: Final = 11
NSID, KEEPALIVE, EDE = 3, 11, 15
"""EDNS options: RFC 5001, RFC 7828, RFC 8914. All others are passed over and never sent back."""
MAX_OPTION: Final = 128
"""Octets of text or name put into an option."""

_COUNTS = struct.Struct("!HHHHHH")
_FIXED = struct.Struct("!HHIH")
_PAIR = struct.Struct("!HH")


class WireError(ValueError):
    """The octets are not what RFC 1035 allows."""


class Query(NamedTuple):
    """One query. `fault` is the rcode it must be answered with at once, 0 if it is sound. `name` is a key, `question` the
    octets as received (empty if unreadable). `udp_limit` is the largest reply its sender takes over UDP, in octets. `wants` are
    the EDNS options it asks for, of those that we know.
    """

    id: int
    flags: int
    name: bytes = b""
    qtype: int = 0
    qclass: int = IN
    question: bytes = b""
    edns: bool = False
    udp_limit: int = MIN_UDP
    dnssec: bool = False
    fault: int = NOERROR
    wants: tuple[int, ...] = ()

    @property
    def checking_disabled(self) -> bool:
        return bool(self.flags & CD)

    @property
    def recursion(self) -> bool:
        return bool(self.flags & RD)


class Tail(NamedTuple):
    """A reply without what depends on the single query. `body` is everything after the question, without OPT; names in it may
    point into the question (whose offsets depend on the name alone). `additional_at` is where the additional section begins
    in `body`. `ede` and `text` tell a client that speaks EDNS why there is no better answer (RFC 8914).
    """

    rcode: int = NOERROR
    authoritative: bool = False
    answers: int = 0
    authority: int = 0
    additional: int = 0
    body: bytes = b""
    additional_at: int = 0
    ede: int | None = None
    text: str = ""


class Span(NamedTuple):
    """Where one resource record lies in a message. Offsets are absolute."""

    start: int
    rtype: int
    rclass: int
    ttl: int
    ttl_at: int
    data_at: int
    end: int


def read_name(data: bytes, pos: int) -> int:
    """The offset after an uncompressed name at `pos`. Raises WireError (pointers included: a question has nothing to point
    to).
    """
    start = pos
    while True:
        if pos >= len(data) or pos - start >= MAX_NAME:
            raise WireError("name runs out of the message or is too long")
        length = data[pos]
        pos += 1
        if length == 0:
            return pos
        if length > 63:
            raise WireError("compressed or unknown label type in a question")
        pos += length


def skip_name(data: bytes, pos: int) -> int:
    """The offset after a name at `pos` that may end in a pointer. Raises WireError; pointers must point back (RFC 1035,
    4.1.4).
    """
    start = pos
    while pos < len(data) and pos - start < MAX_NAME:
        length = data[pos]
        if length == 0:
            return pos + 1
        if length >= 0xC0:
            if pos + 2 > len(data) or (length & 0x3F) << 8 | data[pos + 1] >= start:
                raise WireError("pointer that does not point back")
            return pos + 2
        if length > 63:
            raise WireError("unknown label type")
        pos += 1 + length
    raise WireError("name runs out of the message or is too long")


def read_records(data: bytes, pos: int, count: int) -> Iterator[Span]:
    """`count` resource records from `pos` on. Raises WireError as soon as one does not fit; refuses impossible counts before
    it starts.
    """
    if count * MIN_RECORD > len(data) - pos:
        raise WireError("more records announced than the message can hold")
    for _ in range(count):
        start = pos
        pos = skip_name(data, pos)
        if pos + _FIXED.size > len(data):
            raise WireError("record header runs out of the message")
        rtype, rclass, ttl, length = _FIXED.unpack_from(data, pos)
        end = pos + _FIXED.size + length
        if end > len(data):
            raise WireError("record data runs out of the message")
        yield Span(start, rtype, rclass, ttl, pos + 4, pos + _FIXED.size, end)
        pos = end


def parse_query(data: bytes) -> Query | None:
    """Read a query; None if it must be dropped (too short to answer, or itself a reply: answering those makes packet ping-pong).

    Promise: never raises; a fault in the message becomes the rcode to answer with.
    """
    size = len(data)
    if size < HEADER:
        return None
    ident, flags, questions, answers, authority, additional = _COUNTS.unpack_from(data)
    if flags & (QR | OPCODE_MASK) or questions != 1 or size > MAX_QUERY:
        return None if flags & QR else Query(ident, flags, fault=_header_fault(flags))
    try:
        end = read_name(data, HEADER)
        if end + 4 > size:
            raise WireError("question is cut off")
    except WireError:
        return Query(ident, flags, fault=FORMERR)
    qtype, qclass = _PAIR.unpack_from(data, end)
    name, question = data[HEADER:end].lower(), data[HEADER : end + 4]
    if answers or authority or additional > MAX_ADDITIONAL:
        # Only IXFR carries a record outside the additional section, and transfers are refused in any case (RFC 1995, 3).
        fault = REFUSED if qtype == IXFR else FORMERR
        return Query(ident, flags, name, qtype, qclass, question, fault=fault)
    if not additional:
        return Query(ident, flags, name, qtype, qclass, question)
    return _with_edns(Query(ident, flags, name, qtype, qclass, question), data, end + 4, additional)


def _header_fault(flags: int) -> int:
    opcode = (flags & OPCODE_MASK) >> 11
    if opcode in (OPCODE_NOTIFY, OPCODE_UPDATE):
        return REFUSED
    return NOTIMP if opcode else FORMERR


def _with_edns(query: Query, data: bytes, pos: int, count: int) -> Query:
    """Read the additional section of a query: at most one OPT, well formed, version 0 (RFC 6891, 6.1)."""

    def faulty(rcode: int, edns: bool, limit: int = MIN_UDP) -> Query:
        return Query(query.id, query.flags, query.name, query.qtype, query.qclass, query.question, edns, limit, fault=rcode)

    try:
        found = [span for span in read_records(data, pos, count) if span.rtype == OPT]
        if len(found) > 1 or any(data[span.start] != 0 for span in found):
            return faulty(FORMERR, False)
        if not found:
            return query
        opt = found[0]
        codes = _options(data[opt.data_at : opt.end])
    except WireError:
        return faulty(FORMERR, False)
    limit = min(max(opt.rclass, MIN_UDP), UDP_PAYLOAD)
    if opt.ttl >> 16 & 0xFF:
        return faulty(BADVERS, True, limit)
    dnssec = bool(opt.ttl & DO)
    wants = tuple(code for code in (NSID, KEEPALIVE) if code in codes) if codes else ()
    return Query(query.id, query.flags, query.name, query.qtype, query.qclass, query.question, True, limit, dnssec, 0, wants)


def _options(data: bytes) -> set[int]:
    """The codes of all options. Raises WireError."""
    codes: set[int] = set()
    pos = 0
    while pos < len(data):
        if pos + 4 > len(data):
            raise WireError("EDNS option header is cut off")
        code, length = _PAIR.unpack_from(data, pos)
        codes.add(code)
        pos += 4 + length
    if pos != len(data):
        raise WireError("EDNS option overruns its record")
    return codes


def render(query: Query, tail: Tail, tcp: bool = False, options: bytes = b"") -> bytes:
    """The reply to send. What does not fit loses its additional section first, then gets TC and the whole answers that fit
    (RFC 2181, 9). `options` are packed EDNS options for a query that has EDNS.
    """
    limit = MAX_TCP if tcp else query.udp_limit
    opt = _opt(query, tail, options) if query.edns else b""
    room = limit - HEADER - len(query.question) - len(opt)
    answers, authority, additional, body, cut = tail.answers, tail.authority, tail.additional, tail.body, 0
    if len(body) > room and additional:
        additional, body = 0, body[: tail.additional_at]
    if len(body) > room:
        answers, body = _fitting(query, tail, room)
        authority, cut = 0, TC
    flags = QR | query.flags & (OPCODE_MASK | RD | CD) | RA | (AA if tail.authoritative else 0) | cut | tail.rcode & 0xF
    head = _COUNTS.pack(query.id, flags, 1 if query.question else 0, answers, authority, additional + bool(opt))
    return b"".join((head, query.question, body, opt))


def _fitting(query: Query, tail: Tail, room: int) -> tuple[int, bytes]:
    # A stub without TCP (old musl) lives on what a truncated reply holds, so it is filled with whole records.
    prefix = bytes(HEADER) + query.question
    end = count = 0
    for span in read_records(prefix + tail.body, len(prefix), tail.answers):
        if span.end - len(prefix) > room:
            break
        end, count = span.end - len(prefix), count + 1
    return count, tail.body[:end]


def pack_option(code: int, data: bytes) -> bytes:
    """One EDNS option."""
    return _PAIR.pack(code, len(data)) + data


def _opt(query: Query, tail: Tail, options: bytes) -> bytes:
    if tail.ede is not None:
        options += pack_option(EDE, tail.ede.to_bytes(2, "big") + tail.text.encode()[:MAX_OPTION])
    ttl = (tail.rcode >> 4) << 24 | (DO if query.dnssec else 0)
    return b"\0" + _FIXED.pack(OPT, UDP_PAYLOAD, ttl, len(options)) + options
