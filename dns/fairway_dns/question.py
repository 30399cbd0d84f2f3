"""Questions to upstreams: their octets, their ids, and the random case of their letters (RFC 5452; draft-vixie-dnsext-dns0x20).

Ids and case come from the system's generator, which is asked for many octets at a time.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from fairway_dns.wire import CD, DO, IN, OPT, RD, UDP_PAYLOAD

POOL: Final = 4096
"""Octets taken from the system's generator at a time."""
PADDING: Final = 12
PADDED_TO: Final = 128
"""Octets that the length of a padded query is a multiple of (RFC 8467, 4.1)."""

_LETTERS: Final = bytes(0x20 if chr(octet).isascii() and chr(octet).islower() else 0 for octet in range(256))
_HEADS: Final = {
    (edns, disabled): struct.pack("!HHHHH", RD | (CD if disabled else 0), 1, 0, 0, int(edns))
    for edns in (False, True)
    for disabled in (False, True)
}
_OPTS: Final = {dnssec: b"\0" + struct.pack("!HHIH", OPT, UDP_PAYLOAD, DO if dnssec else 0, 0) for dnssec in (False, True)}


class Asked(NamedTuple):
    """What an answer depends on: name (a key), type, whether DNSSEC records were wanted, whether checking was disabled (RFC
    4035, 3.2).
    """

    name: bytes
    qtype: int
    dnssec: bool = False
    checking_disabled: bool = False


class Entropy:
    """Unpredictable octets."""

    def __init__(self) -> None:
        self._octets = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """`count` octets (at most POOL), never given out before."""
        start = self._used
        if start + count > len(self._octets):
            self._octets, start = os.urandom(POOL), 0
        self._used = start + count
        return self._octets[start : start + count]


def in_mixed_case(name: bytes, noise: bytes) -> bytes:
    """A key with each letter in upper case if its bit of `noise` (as many octets) says so. Length octets are no letters."""
    letters = int.from_bytes(name.translate(_LETTERS), "big")
    return (int.from_bytes(name, "big") ^ letters & int.from_bytes(noise, "big")).to_bytes(len(name), "big")


def question_of(asked: Asked, name: bytes) -> bytes:
    """The question section with `name` in place of the key, in class IN."""
    return name + struct.pack("!HH", asked.qtype, IN)


def encode_query(ident: bytes, question: bytes, asked: Asked, edns: bool) -> bytes:
    """A recursive query; with OPT it advertises the payload size that avoids fragments."""
    opt = _OPTS[asked.dnssec] if edns else b""
    return b"".join((ident, _HEADS[edns, asked.checking_disabled], question, opt))


def client_query(ident: bytes, name: bytes, qtype: int) -> bytes:
    """What a client sends: a recursive query with EDNS for a name (a key)."""
    asked = Asked(name, qtype)
    return encode_query(ident, question_of(asked, name), asked, True)


def encode_padded(ident: bytes, question: bytes, asked: Asked) -> bytes:
    """A recursive query whose length tells little of its name, for encrypted transport (RFC 7830, RFC 8467)."""
    plain = encode_query(ident, question, asked, True)
    zeros = -(len(plain) + 4) % PADDED_TO
    return plain[:-2] + struct.pack("!HHH", zeros + 4, PADDING, zeros) + bytes(zeros)
