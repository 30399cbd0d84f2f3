"""Foreign names for laboratories: a name server inside a namespace, answered by a function of the test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import dns.message
import dns.rcode
import dns.rrset

from fairway_kernel import netns

PORT = 5353
Answers = Callable[[str, str], list[tuple[str, str, str]] | None]
"""(name, type) -> records (owner, type, data), none for NXDOMAIN."""


@contextmanager
def name_server(namespace: str, answers: Answers, ttl: int = 60) -> Iterator[list[tuple[str, str]]]:
    """Serve on 127.0.0.1 port `PORT` of a namespace; what was asked, as it comes in."""
    asked: list[tuple[str, str]] = []
    server = netns.run_in(namespace, _listen)

    def serve() -> None:
        while data := server.recvfrom(4096):
            if len(data[0]) < 12:
                return
            query = dns.message.from_wire(data[0])
            name, rtype = query.question[0].name.to_text(omit_final_dot=True), query.question[0].rdtype.name
            asked.append((name.lower(), rtype))
            server.sendto(_reply(query, answers(name.lower(), rtype), ttl), data[1])

    thread = Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.sendto(b"", server.getsockname())
        thread.join(5)
        server.close()


def _listen() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", PORT))
    return made


def _reply(query: dns.message.Message, records: list[tuple[str, str, str]] | None, ttl: int) -> bytes:
    made = dns.message.make_response(query)
    if records is None:
        made.set_rcode(dns.rcode.NXDOMAIN)
    for owner, rtype, data in records or ():
        # The owner is written as it was asked for: letters go out in random case and must come back so.
        asked = query.question[0].name
        name = asked if owner == asked.to_text(True).lower() else f"{owner}."
        made.answer.append(dns.rrset.from_text(name, ttl, "IN", rtype, data))
    if not made.answer:
        made.authority.append(dns.rrset.from_text("example.", ttl, "IN", "SOA", "ns. h. 1 2 3 4 60"))
    return made.to_wire()
