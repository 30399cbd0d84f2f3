"""Whether anybody serves a listening address: questions as a client would ask them, put by the agent over UDP.

A worker may answer the agent's pings and yet take nothing from a socket. So the agent knocks: a few questions at a time for a
name of the zone, each from a port of its own, so that every worker behind the port is likely to get one. They carry an EDNS
option from the range for local use (RFC 6891, 9) and come from the listening address itself, which no container can send from; a
worker answers them as any other question, beyond all limits, and counts them for nobody.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from fairway_dns.config import Address
from fairway_dns.names import to_key
from fairway_dns.wire import HEADER, IN, OPT, RD, TXT, UDP_PAYLOAD

CODE: Final = 65313
_OPTION: Final = struct.pack("!HH", CODE, 0)
MARK: Final = b"\0" + struct.pack("!HHIH", OPT, UDP_PAYLOAD, 0, len(_OPTION)) + _OPTION
"""How a knock ends."""
DOORS: Final = 8
"""Knocks at a time."""
WAIT: Final = 1.0
"""Seconds until they are counted."""


def packed(listener: socket.socket) -> bytes:
    """The address a socket listens on, as 4 or 16 octets."""
    return socket.inet_pton(listener.family, str(listener.getsockname()[0]).partition("%")[0])


def question(domain: str) -> bytes:
    """The octets of a knock: the version of the zone's schema, which exists without any object."""
    head = struct.pack("!HHHHHH", 0, RD, 1, 0, 0, 1)
    return head + to_key(f"dns-version.{domain}") + struct.pack("!HH", TXT, IN) + MARK


async def unanswered(address: Address, domain: str, doors: int = DOORS, wait: float = WAIT) -> int:
    """How many of so many knocks get no answer within `wait` seconds; 0 if the address is not this node's, since then nobody can
    be asked.

    The caller may be starved meanwhile: what has arrived by the time it goes on counts.
    """
    octets = question(domain)
    with ExitStack() as stack:
        try:
            asked = [stack.enter_context(_asked(address, octets)) for _ in range(doors)]
        except OSError:
            return 0
        await asyncio.sleep(wait)
        return sum(not _answered(one) for one in asked)


@contextmanager
def _asked(address: Address, octets: bytes) -> Iterator[socket.socket]:
    family, _, _, _, target = address.resolve(socket.SOCK_DGRAM)
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as made:
        # From the address itself: should it be missing, nothing leaves the node.
        made.bind((target[0], 0, *target[2:]))
        made.connect(target)
        made.send(octets)
        yield made


def _answered(one: socket.socket) -> bool:
    try:
        return len(one.recv(UDP_PAYLOAD)) > HEADER
    except OSError:
        return False
