"""From records in presentation form to octets of a reply body (RFC 1035, RFC 2782, RFC 3596, RFC 8482)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from socket import AF_INET, AF_INET6, inet_pton
from typing import Final

from fairway_dns.names import suffixes, to_key
from fairway_dns.wire import AAAA, CNAME, HEADER, HINFO, IN, NS, PTR, SOA, SRV, TXT, A

Offsets = Mapping[bytes, int]
"""Names a reply can point to: key -> offset in the message."""

OWN: Final = struct.pack("!H", 0xC000 | HEADER)
"""A pointer to the question's name."""

_FIXED = struct.Struct("!HHIH")


def question_offsets(name: bytes) -> dict[bytes, int]:
    """Where the question's name and its parents lie in every message that asks for `name`."""
    return {suffix: HEADER + pos for pos, suffix in suffixes(name)}


def pack_name(name: bytes, offsets: Offsets) -> bytes:
    """A name, as a pointer from its longest known suffix on (RFC 1035, 4.1.4)."""
    for pos, suffix in suffixes(name):
        known = offsets.get(suffix)
        if known is not None:
            return name[:pos] + struct.pack("!H", 0xC000 | known)
    return name


def pack_own(name: bytes, rtype: int, ttl: int, data: Iterable[str]) -> list[bytes]:
    """Records of one type at the question's name itself, as `pack_record` makes them."""
    if rtype in (A, AAAA):
        # Most of all answers, and the whole of large ones: no look at names, one head for all.
        head = OWN + _FIXED.pack(rtype, IN, ttl, 4 if rtype == A else 16)
        return [head + _pack_address(rtype, text) for text in data]
    offsets = question_offsets(name)
    return [pack_record(name, rtype, ttl, text, offsets) for text in data]


def pack_record(owner: bytes, rtype: int, ttl: int, data: str, offsets: Offsets) -> bytes:
    """One resource record of class IN from presentation form. Raises ValueError for data that does not fit its type."""
    rdata = pack_data(rtype, data, offsets)
    return pack_name(owner, offsets) + _FIXED.pack(rtype, IN, ttl, len(rdata)) + rdata


def pack_data(rtype: int, data: str, offsets: Offsets) -> bytes:
    """Record data from presentation form. Names are compressed only in the types of RFC 1035 (RFC 3597, 4)."""
    if rtype in (A, AAAA):
        return _pack_address(rtype, data)
    if rtype in (CNAME, PTR, NS):
        return pack_name(to_key(data), offsets)
    if rtype == SRV:
        priority, weight, port, target = data.split(" ")
        return struct.pack("!HHH", int(priority), int(weight), int(port)) + to_key(target)
    if rtype == SOA:
        return _pack_soa(data.split(" "), offsets)
    if rtype in (TXT, HINFO):
        return b"".join(_pack_string(part) for part in (data.split("|") if rtype == HINFO else [data]))
    raise ValueError(f"no presentation form known for type {rtype}")


def _pack_address(rtype: int, text: str) -> bytes:
    # Thirty times as fast as `ipaddress`, and a thousand of them may be wanted at once.
    try:
        return inet_pton(AF_INET if rtype == A else AF_INET6, text)
    except OSError as error:
        raise ValueError(f"no address: {text!r}") from error


def _pack_string(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > 255:
        raise ValueError("character string is longer than 255 octets")
    return bytes((len(raw),)) + raw


def _pack_soa(fields: Sequence[str], offsets: Offsets) -> bytes:
    primary, mailbox, *numbers = fields
    names = pack_name(to_key(primary), offsets) + pack_name(to_key(mailbox), offsets)
    return names + struct.pack("!IIIII", *(int(number) for number in numbers))
