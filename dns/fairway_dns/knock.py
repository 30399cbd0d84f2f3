"""Whether anybody serves a listening address: questions as a client would ask them, put by the agent over UDP and TCP.

A worker may answer the agent's pings and yet take nothing from a socket, or put nothing into it. So the agent knocks: a few
questions at a time for a name of the zone, each from a port of its own, so that every worker behind the port is likely to get
one. They carry an EDNS option from the range for local use (RFC 6891, 9) and come from the listening address itself, which no
container can send from; a worker answers them as any other question, beyond all limits, and counts them for nobody.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final, NamedTuple

from fairway_dns.config import Address
from fairway_dns.names import to_key
from fairway_dns.wire import HEADER, IN, OPT, RD, TXT, UDP_PAYLOAD

CODE: Final = 65313
_OPTION: Final = struct.pack("!HH", CODE, 0)
MARK: Final = b"\0" + struct.pack("!HHIH", OPT, UDP_PAYLOAD, 0, len(_OPTION)) + _OPTION
"""How a knock ends."""
DOORS: Final = 8
"""Knocks at a time, over each transport."""
WAIT: Final = 1.0
"""Seconds until they are counted."""


def packed(listener: socket.socket) -> bytes:
    """The address a socket listens on, as 4 or 16 octets."""
    return socket.inet_pton(listener.family, str(listener.getsockname()[0]).partition("%")[0])


def is_knock(data: bytes, client: bytes, own: bytes) -> bool:
    """Whether a query that came to the address `own` (both packed) is a knock."""
    return data.endswith(MARK) and client == own


def question(domain: str) -> bytes:
    """The octets of a knock: the version of the zone's schema, which exists without any object."""
    head = struct.pack("!HHHHHH", 0, RD, 1, 0, 0, 1)
    return head + to_key(f"dns-version.{domain}") + struct.pack("!HH", TXT, IN) + MARK


class Unanswered(NamedTuple):
    """How many knocks got no answer."""

    udp: int = 0
    tcp: int = 0


async def unanswered(address: Address, domain: str, doors: int = DOORS, wait: float = WAIT) -> Unanswered:
    """How many of so many knocks over each transport get no answer within `wait` seconds; none if the address is not this node's,
    since then nobody can be asked.

    The caller may be starved meanwhile: what has arrived by the time it goes on counts.
    """
    octets = question(domain)
    with ExitStack() as stack:
        try:
            udp = [stack.enter_context(_door(address, socket.SOCK_DGRAM)) for _ in range(doors)]
            tcp = [stack.enter_context(_door(address, socket.SOCK_STREAM)) for _ in range(doors)]
        except OSError:
            return Unanswered()
        for one in udp:
            _send(one, octets)
        # The kernel completes a connection at once, whether or not anybody accepts it.
        await asyncio.sleep(wait / 4)
        for one in tcp:
            _send(one, len(octets).to_bytes(2, "big") + octets)
        await asyncio.sleep(wait * 3 / 4)
        return Unanswered(sum(not _answered(one) for one in udp), sum(not _answered(one) for one in tcp))


@contextmanager
def _door(address: Address, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """A socket that is connected, or about to be. Raises OSError if the address is not there."""
    family, _, _, _, target = address.resolve(kind)
    with socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as made:
        if kind == socket.SOCK_STREAM:
            # Closed at once, or the ports would be taken for a minute each.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # From the address itself: should it be missing, nothing leaves the node.
        made.bind((target[0], 0, *target[2:]))
        # Nobody may listen: then it cannot be sent either, and there is no answer.
        made.connect_ex(target)
        yield made


def _send(one: socket.socket, octets: bytes) -> None:
    with suppress(OSError):
        one.send(octets)


def _answered(one: socket.socket) -> bool:
    try:
        return len(one.recv(UDP_PAYLOAD)) > HEADER
    except OSError:
        return False
