"""Frames between the agent's zone feed and its workers. Pure: bytes in, frames out.

A frame is a 4-octet length (big-endian, without itself) and a JSON array [kind, …]. The worker opens with `Hello`; the feed
sends a snapshot (`Begin`, `Chunk`…, `End`) and then a `Delta` per change; the worker acknowledges each `End` and `Delta` with
`Ack`. Snapshots come in chunks so that neither side's loop stalls. The state file of a worker holds the same frames.

Beside the table: the worker sends `Stats` now and then, answers `Ping` with `Pong`, and tells for a while after `Watch` who asks
what (`Top`); these frames are in `fairway_dns.reports`. It asks with `Learned` whether addresses may be told, and `Admitted` says
so; these are in `fairway_dns.learned`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from fairway_dns import learned, reports
from fairway_dns.learned import Admitted, Learned
from fairway_dns.reports import Report
from fairway_dns.views import Fact, ViewDelta
from fairway_dns.zone import Record, ZoneDelta

VERSION = 2
CHUNK = 100
"""Records of a snapshot that travel together: a worker needs a millisecond for them, and answers queries in between."""
MAX_FRAME = 64 << 20


class ProtocolError(ValueError):
    """The other side (or a file) does not speak this protocol."""


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker's first frame. `revision` is that of the table it serves, None for none."""

    version: int
    pid: int
    revision: int | None


@dataclass(frozen=True, slots=True)
class Begin:
    """A snapshot follows; it replaces everything once `End` is read. `scoped`: its records say what they belong to, and facts say
    who may see it.
    """

    revision: int
    scoped: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some records and facts of a snapshot."""

    records: frozenset[Record]
    facts: frozenset[Fact] = frozenset()


@dataclass(frozen=True, slots=True)
class End:
    """The snapshot is complete."""

    revision: int


@dataclass(frozen=True, slots=True)
class Delta:
    """A change, possibly empty, that brings the table to `revision`."""

    delta: ZoneDelta
    revision: int


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything up to `revision` is what the worker answers from now."""

    revision: int


Frame = Hello | Begin | Chunk | End | Delta | Ack | Learned | Admitted | Report


def encode(frame: Frame) -> bytes:
    """A frame with its length in front."""
    body = json.dumps(_fields(frame), separators=(",", ":")).encode()
    return len(body).to_bytes(4, "big") + body


def _fields(frame: Frame) -> list[object]:
    match frame:
        case Hello(version, pid, revision):
            return ["hello", version, pid, revision]
        case Begin(revision, scoped):
            return ["begin", revision, scoped]
        case Chunk(records, facts):
            return ["chunk", _rows(records), _lines(facts)]
        case End(revision):
            return ["end", revision]
        case Delta(delta, revision):
            views = delta.views
            return ["delta", revision, _rows(delta.add), _rows(delta.remove), _lines(views.add), _lines(views.remove)]
        case Ack(revision):
            return ["ack", revision]
        case Learned() | Admitted():
            return learned.fields_of(frame)
        case _:
            return reports.fields_of(frame)


def _rows(records: Iterable[Record]) -> list[list[str]]:
    return [[r.name, r.type, r.data, *([r.scope] if r.scope else [])] for r in sorted(records)]


def _lines(facts: Iterable[Fact]) -> list[list[str]]:
    return [fact.row() for fact in sorted(facts)]


def decode(body: bytes) -> Frame:
    """The frame in `body` (without the length). Raises ProtocolError."""
    try:
        kind, *fields = json.loads(body)
        match kind, fields:
            case "hello", [int(version), int(pid), int() | None as revision]:
                return Hello(version, pid, revision)
            case "begin", [int(revision), *scoped]:
                # The flag and the facts are missing in the state file that a worker of version 1 left.
                return Begin(revision, scoped == [True])
            case "chunk", [list(rows), *facts]:
                return Chunk(_records(rows), _facts(*facts))
            case "end", [int(revision)]:
                return End(revision)
            case "delta", [int(revision), list(add), list(remove), *facts]:
                return Delta(ZoneDelta(_records(add), _records(remove), ViewDelta(*map(_facts, facts))), revision)
            case "ack", [int(revision)]:
                return Ack(revision)
        found = reports.report_from(kind, fields) or learned.frame_from(kind, fields)
        if found is not None:
            return found
    except (ValueError, TypeError, RecursionError) as error:
        raise ProtocolError(f"frame cannot be read: {error}") from error
    raise ProtocolError(f"unknown frame {body[:40]!r}")


def _records(rows: Iterable[Iterable[str]]) -> frozenset[Record]:
    return frozenset(Record(*(str(field) for field in row)) for row in rows)


def _facts(rows: Iterable[Iterable[object]] = ()) -> frozenset[Fact]:
    return frozenset(map(Fact.from_row, rows))


def snapshot(records: Iterable[Record], revision: int, facts: Iterable[Fact] = (), scoped: bool = False) -> Iterator[Frame]:
    """The frames that carry a whole table."""
    yield Begin(revision, scoped)
    lines = iter(facts)
    while some := frozenset(islice(lines, CHUNK)):
        yield Chunk(frozenset(), some)
    rest = iter(records)
    while part := frozenset(islice(rest, CHUNK)):
        yield Chunk(part)
    yield End(revision)


class FrameReader:
    """Cuts a byte stream into frame bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The bodies that `data` completes. Raises ProtocolError for a length nobody would send."""
        self._buffer += data
        while len(self._buffer) >= 4:
            length = int.from_bytes(self._buffer[:4], "big")
            if length > MAX_FRAME:
                raise ProtocolError(f"frame of {length} octets")
            if len(self._buffer) < 4 + length:
                return
            body = bytes(self._buffer[4 : 4 + length])
            del self._buffer[: 4 + length]
            yield body
