"""Frames about the worker itself: what it measured, whether it lives, who asks it what (see `fairway_dns.protocol`). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field

from fairway_dns.histogram import Durations


@dataclass(frozen=True, slots=True)
class Stats:
    """What the worker measured since its start: counts by "name:label", durations by "name:label"; and what is so now."""

    counters: Mapping[str, int]
    durations: Mapping[str, Durations] = field(default_factory=dict)
    gauges: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ping:
    """Tell that you live."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """I do; the number is that of the `Ping`."""

    number: int


@dataclass(frozen=True, slots=True)
class Watch:
    """Count who asks what for the next so many seconds, and send a `Top` each second."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Top:
    """Who asked what in the last `seconds`: `total` queries, and rows (source, name, type, queries), the most frequent first."""

    seconds: float
    total: int
    rows: tuple[tuple[str, str, str, int], ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One query of the query log. `time` in seconds since the epoch, `ms` milliseconds."""

    time: float
    source: str
    name: str
    type: str
    rcode: str
    ms: float
    path: str
    transport: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A part of the query log. `dropped` lines before them were too many."""

    dropped: int
    lines: tuple[Line, ...]


Report = Stats | Ping | Pong | Watch | Top | Lines


def fields_of(frame: Report) -> list[object]:
    """The frame as JSON values, its kind first."""
    match frame:
        case Stats(counters, durations, gauges):
            return ["stats", dict(counters), {name: [item.sum, item.counts] for name, item in durations.items()}, dict(gauges)]
        case Ping(number):
            return ["ping", number]
        case Pong(number):
            return ["pong", number]
        case Watch(seconds):
            return ["watch", seconds]
        case Top(seconds, total, rows):
            return ["top", seconds, total, rows]
        case Lines(dropped, lines):
            return ["lines", dropped, [astuple(line) for line in lines]]


def report_from(kind: object, fields: Sequence[object]) -> Report | None:
    """The frame of such values; None if there is none. Raises ValueError or TypeError for values of other types."""
    match kind, fields:
        case "stats", [dict(counters), dict(durations), dict(gauges)]:
            return Stats(_numbers(counters), {str(name): _durations(*item) for name, item in durations.items()}, _numbers(gauges))
        case "ping", [int(number)]:
            return Ping(number)
        case "pong", [int(number)]:
            return Pong(number)
        case "watch", [int() | float() as seconds]:
            return Watch(seconds)
        case "top", [int() | float() as seconds, int(total), list(rows)]:
            return Top(seconds, total, tuple((str(a), str(b), str(c), int(d)) for a, b, c, d in rows))
        case "lines", [int(dropped), list(rows)]:
            return Lines(dropped, tuple(_line(*row) for row in rows))
    return None


def _line(time: float, source: str, name: str, rtype: str, rcode: str, ms: float, path: str, transport: str) -> Line:
    return Line(float(time), str(source), str(name), str(rtype), str(rcode), float(ms), str(path), str(transport))


def _numbers(found: Mapping[str, int]) -> dict[str, int]:
    return {str(name): int(count) for name, count in found.items()}


def _durations(total: float, counts: Iterable[int]) -> Durations:
    return Durations(float(total), tuple(int(count) for count in counts))
