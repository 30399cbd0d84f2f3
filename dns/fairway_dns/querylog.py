"""A log of queries: a sample, slow ones, failures. Bounded per second; it never waits, and what is too much is counted. Pure.

Lines are made from replies, which hold the question too, and leave through the feed: the agent knows whose an address is, and
the disk is not the worker's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from fairway_core.clock import Clock
from fairway_dns.names import client_text, to_text
from fairway_dns.reports import Line, Lines
from fairway_dns.wire import HEADER, NOERROR, NXDOMAIN, RCODES, TYPE_NAMES

SOUND: Final = (NOERROR, NXDOMAIN)
MOST: Final = 1000
"""Lines between two calls of `take`, which come once a second."""


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged: a share of all queries (0 to 1), those that took `slow` seconds or longer (0: none), and, if `failures`,
    those that got neither an answer nor a denial.
    """

    sample: float = 0.0
    slow: float = 0.0
    failures: bool = False

    @property
    def on(self) -> bool:
        return bool(self.sample or self.slow or self.failures)

    def word(self) -> str:
        """As one word of a command line."""
        return f"{self.sample:g},{self.slow:g},{int(self.failures)}"

    @classmethod
    def from_word(cls, text: str) -> LogSettings:
        """The inverse of `word`. Raises ValueError."""
        sample, slow, failures = text.split(",")
        found = cls(float(sample), float(slow), failures == "1")
        if not 0 <= found.sample <= 1 or found.slow < 0:
            raise ValueError(f"no settings of a query log: {text!r}")
        return found


@dataclass(frozen=True, slots=True)
class _Seen:
    reply: bytes
    client: bytes
    seconds: float
    path: str
    transport: str
    wall: float


class QueryLog:
    """Collects what is to be logged until it is taken."""

    def __init__(self, settings: LogSettings, clock: Clock, draw: Callable[[], float] = random.random) -> None:
        self._settings = settings
        self._clock = clock
        self._draw = draw
        self._credit = 0.0
        self._seen: list[_Seen] = []
        self._dropped = 0

    def batch(self, pieces: Sequence[bytes], client: Callable[[int], bytes], seconds: float) -> None:
        """Replies that left together after `seconds`; reply n is pieces 2n and 2n + 1 joined and for the packed address
        `client(n)`.
        """
        for place in self._chosen(pieces, seconds):
            self._keep(pieces[2 * place] + pieces[2 * place + 1], client(place), seconds, "fast", "udp")

    def _chosen(self, pieces: Sequence[bytes], seconds: float) -> Iterable[int]:
        settings, count = self._settings, len(pieces) // 2
        if settings.slow and seconds >= settings.slow:
            return range(count)
        self._credit += count * settings.sample
        some, first = int(self._credit), int(self._draw() * count)
        chosen = {(first + number * count // some) % count for number in range(some)}
        self._credit %= 1
        if settings.failures:
            # After the id, the octet with the rcode is the second.
            chosen.update(place for place in range(count) if pieces[2 * place + 1][1] & 15 not in SOUND)
        return chosen

    def answered(self, reply: bytes, client: bytes, seconds: float, path: str, transport: str) -> None:
        """A single reply."""
        settings = self._settings
        failed = settings.failures and reply[3] & 15 not in SOUND
        self._credit += settings.sample
        sampled, self._credit = self._credit >= 1, self._credit % 1
        if failed or sampled or (settings.slow and seconds >= settings.slow):
            self._keep(reply, client, seconds, path, transport)

    def _keep(self, reply: bytes, client: bytes, seconds: float, path: str, transport: str) -> None:
        if len(self._seen) >= MOST:
            self._dropped += 1
        else:
            self._seen.append(_Seen(reply, client, seconds, path, transport, self._clock.wall()))

    def take(self) -> Lines | None:
        """What was collected since the last time, and how much was too much."""
        if not self._seen:
            return None
        seen, self._seen = self._seen, []
        dropped, self._dropped = self._dropped, 0
        return Lines(dropped, tuple(map(_line, seen)))


def _line(seen: _Seen) -> Line:
    name, rtype = _question(seen.reply)
    rcode = RCODES.get(seen.reply[3] & 15, "other")
    milliseconds = round(seen.seconds * 1000, 3)
    return Line(round(seen.wall, 3), client_text(seen.client), name, rtype, rcode, milliseconds, seen.path, seen.transport)


def _question(reply: bytes) -> tuple[str, str]:
    """Name and type, empty if the query had none that could be read."""
    try:
        end = reply.index(0, HEADER)
        if not int.from_bytes(reply[4:6], "big"):
            return "", ""
        return to_text(reply[HEADER : end + 1].lower()), _type(int.from_bytes(reply[end + 1 : end + 3], "big"))
    except (ValueError, IndexError):
        return "", ""


def _type(number: int) -> str:
    return TYPE_NAMES.get(number, f"TYPE{number}")
