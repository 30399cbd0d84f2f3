"""Upstreams that send our questions back to us, found out by a question that nobody else can ask.

A probe has a name from the system's generator, so that no client can pretend one (CVE-2026-26018 was a predictable name). If it
arrives here, the server it was sent to is asked nothing until a later probe is answered without coming back.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from fairway_dns.counters import Counters
from fairway_dns.question import Asked
from fairway_dns.response import Response
from fairway_dns.upstream import Attempt, Server, Unusable
from fairway_dns.wire import HINFO

WAIT: Final = 5.0
"""Seconds a probe waits for an answer."""
AGAIN: Final = 60.0
"""Seconds until a server that loops is tried again."""
TRIES: Final = 5
"""Probes in a row without an answer: another worker of this node may have got the first ones."""
QUIET: Final = 10.0
"""Seconds between two suspicions of one server."""
OCTETS: Final = 16


class _Probe:
    """What goes on with one server. `attempt` is under way, `next` is due later; one of them at most."""

    def __init__(self, server: Server, guard: LoopGuard) -> None:
        self.server, self._guard = server, guard
        self.name = b""
        self.looping = False
        self.suspected_at = 0.0
        self._attempt: Attempt | None = None
        self._next: asyncio.TimerHandle | None = None
        self._left = 0

    def start(self) -> None:
        """Probe, unless that is going on."""
        if self._attempt is None and self._next is None:
            self._left = TRIES
            self._send()

    def stop(self) -> None:
        """Forget what is under way."""
        if self._attempt is not None:
            self._attempt.cancel()
        if self._next is not None:
            self._next.cancel()
        self._attempt = self._next = None
        self.name = b""

    def back(self) -> None:
        """The probe has come back to us."""
        self.stop()
        self.looping = True
        self._guard.bad.add(self.server)
        self._later(AGAIN, self._send)

    def settle(self, attempt: Attempt, outcome: Response | Unusable) -> None:
        """See `Asker`. Any reply shows that the server ended the question itself."""
        self.stop()
        if isinstance(outcome, Response) or outcome.response is not None:
            self.looping = False
            self._guard.bad.discard(self.server)
        elif self.looping:
            self._later(AGAIN, self._send)

    def _send(self) -> None:
        self._next = None
        self.name = bytes((2 * OCTETS,)) + secrets.token_hex(OCTETS).encode() + b"\0"
        loop = asyncio.get_running_loop()
        self._attempt = self.server.ask(Asked(self.name, HINFO), self, loop.time())
        self._next = loop.call_later(WAIT, self._silent)

    def _silent(self) -> None:
        self.stop()
        self._left -= 1
        if self.looping or self._left > 0:
            self._later(AGAIN if self.looping else WAIT, self._send)

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._next = asyncio.get_running_loop().call_later(seconds, what)


class LoopGuard:
    """Promise: a server that loops is known as such within milliseconds of the first use, and again ten seconds at most after it
    has begun to be silent. `found` is told of each new loop.
    """

    def __init__(self, log: logging.Logger, counters: Counters, found: Callable[[Server], None]) -> None:
        self._log, self._counters, self._found = log, counters, found
        self._probes: list[_Probe] = []
        self.bad: set[Server] = set()
        """Servers that are known to loop."""

    def start(self, servers: Sequence[Server]) -> None:
        """Probe each server."""
        self._probes = [_Probe(server, self) for server in servers]
        for probe in self._probes:
            probe.start()

    def suspect(self, server: Server) -> None:
        """A server does not answer, as one that loops does: probe it, but not all the time."""
        now = asyncio.get_running_loop().time()
        for probe in self._probes:
            if probe.server is server and now - probe.suspected_at >= QUIET:
                probe.suspected_at = now
                probe.start()

    def returned(self, asked: Asked) -> bool:
        """Whether a question is one of our probes; then its server is known to loop from now on."""
        if asked.qtype != HINFO:
            return False
        for probe in self._probes:
            if probe.name == asked.name:
                self._counters.add("loops")
                self._log.error("upstream %s sends our questions back to us: it is not asked any more", probe.server.address)
                probe.back()
                self._found(probe.server)
                return True
        return False

    def close(self) -> None:
        """Stop all probes."""
        for probe in self._probes:
            probe.stop()
        self._probes = []
