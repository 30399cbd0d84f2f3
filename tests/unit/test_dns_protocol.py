"""Frames, the table they make, and the state file."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairway_core.clock import FakeClock
from fairway_dns.histogram import Durations
from fairway_dns.protocol import (
    CHUNK,
    Ack,
    Begin,
    Chunk,
    Delta,
    End,
    Frame,
    FrameReader,
    Hello,
    ProtocolError,
    decode,
    encode,
    snapshot,
)
from fairway_dns.reports import Line, Lines, Ping, Pong, Stats, Top, Watch
from fairway_dns.state import StateFile
from fairway_dns.table import Table
from fairway_dns.zone import Record, Zone, ZoneDelta

ONE, TWO = Record("a.x", "A", "10.0.0.1"), Record("b.x", "TXT", 'öl "x"')
FRAMES: list[Frame] = [
    Hello(1, 42, None),
    Begin(7),
    Chunk(frozenset({ONE, TWO})),
    End(7),
    Delta(ZoneDelta(frozenset({ONE}), frozenset({TWO})), 8),
    Ack(8),
    Stats({"queries:A": 3}, {"latency:fast": Durations(0.5, (1, 2, 3))}, {"cache_entries:": 7}),
    Lines(2, (Line(1.5, "10.0.0.1", "a.x", "A", "NOERROR", 0.25, "fast", "udp"),)),
    Ping(3),
    Pong(3),
    Watch(2.5),
    Top(1.0, 9, (("10.0.0.1", "a.x", "A", 7), ("fd00::1", "b.x", "AAAA", 2))),
]


def test_frames_survive_any_cutting() -> None:
    data = b"".join(encode(frame) for frame in FRAMES)
    for step in (1, 3, 50, len(data)):
        reader = FrameReader()
        found = [decode(body) for at in range(0, len(data), step) for body in reader.feed(data[at : at + step])]
        assert found == FRAMES


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b'["ack","x"]',
        b'["what",1]',
        b"[" * 100000,
        b'["chunk",[["a"]]]',
        b'["stats",{"a":"b"},{},{}]',
        b'["stats",{},{"a":3},{}]',
        b'["top",1,1,[["a"]]]',
        b'["lines",0,[[1,"a"]]]',
        b"\xff",
    ],
)
def test_nonsense_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(body)


def test_an_absurd_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError):
        list(FrameReader().feed(b"\xff\xff\xff\xff"))


def test_snapshots_come_in_chunks() -> None:
    records = frozenset(Record(f"n{n}.x", "A", "10.0.0.1") for n in range(2 * CHUNK + 1))
    frames = list(snapshot(records, 3))
    assert [type(frame) for frame in frames] == [Begin, Chunk, Chunk, Chunk, End]
    table = Table(Zone)
    acks = [table.take(frame) for frame in frames]
    assert (acks, len(table.zone), table.zone.revision) == ([None] * 4 + [Ack(3)], 2 * CHUNK + 1, 3)


def test_a_snapshot_shows_only_when_it_is_whole() -> None:
    table = Table(Zone)
    for frame in snapshot({ONE}, 3):
        table.take(frame)
    before = table.zone
    table.take(Begin(4))
    table.take(Chunk(frozenset({TWO})))
    assert table.zone is before
    assert table.take(End(4)) == Ack(4)
    assert len(table.zone) == 1


@pytest.mark.parametrize(
    "frame", [End(1), Chunk(frozenset()), Delta(ZoneDelta(), 1), Ack(1), Delta(ZoneDelta(frozenset({Record("a", "WKS", "")})), 2)]
)
def test_frames_out_of_place_are_refused(frame: Frame) -> None:
    with pytest.raises(ProtocolError):
        Table(Zone).take(frame)


def load(path: Path) -> Table:
    table = Table(Zone)
    for frame in StateFile(path, FakeClock()).load():
        table.take(frame)
    return table


def test_the_state_file_holds_snapshot_and_deltas_and_is_written_once_a_second(tmp_path: Path) -> None:
    clock, path = FakeClock(), tmp_path / "zone"
    state = StateFile(path, clock)
    assert list(state.load()) == []
    state.replace([encode(frame) for frame in snapshot({ONE}, 3)])
    state.flush()
    assert load(path).zone.revision == 3
    state.append(encode(Delta(ZoneDelta(add=frozenset({TWO})), 4)))
    state.flush()
    assert load(path).zone.revision == 3
    clock.advance(1)
    state.flush()
    table = load(path)
    assert (table.zone.revision, len(table.zone)) == (4, 2)
    with path.open("ab") as file:
        file.write(encode(Delta(ZoneDelta(), 5))[:-3])
    assert load(path).zone.revision == 4
    assert list(tmp_path.iterdir()) == [path]


def test_the_state_file_asks_for_compaction_when_deltas_outgrow_it(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "zone", FakeClock())
    state.replace([encode(frame) for frame in snapshot({ONE}, 3)])
    state.flush(force=True)
    assert not state.wants_compaction
    state.append(bytes((1 << 20) + 1))
    assert state.wants_compaction


def test_a_disk_that_fails_is_reported_and_healed_by_a_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "zone"
    state = StateFile(path, FakeClock())
    state.append(b"x")
    state.flush(force=True)
    assert isinstance(state.error, OSError)
    assert state.wants_compaction
    path.parent.mkdir()
    state.replace([encode(frame) for frame in snapshot({ONE}, 3)])
    state.flush(force=True)
    assert (state.error, load(path).zone.revision) == (None, 3)


def test_a_table_is_written_anew_step_by_step_and_misses_no_change(tmp_path: Path) -> None:
    clock = FakeClock()
    state = StateFile(tmp_path / "zone", clock)
    state.replace([encode(frame) for frame in snapshot({ONE}, 3)])
    state.flush(force=True)
    state.append(encode(Delta(ZoneDelta(add=frozenset({TWO})), 4)) + bytes(1 << 20))
    assert state.wants_compaction
    frames = [encode(frame) for frame in snapshot({ONE, TWO}, 4)]
    state.begin(iter(frames))
    assert not state.wants_compaction
    steps = 0
    while state.step():
        steps += 1
        if steps == 1:
            state.append(encode(Delta(ZoneDelta(remove=frozenset({ONE})), 5)))
    assert steps == len(frames)
    assert not state.step()
    state.flush(force=True)
    table = load(tmp_path / "zone")
    assert (table.zone.revision, len(table.zone)) == (5, 1)


def test_what_a_full_disk_does_not_take_is_bounded(tmp_path: Path) -> None:
    state = StateFile(tmp_path / "missing" / "zone", FakeClock())
    state.replace([bytes(1000)])
    for _ in range(3000):
        state.append(bytes(10_000))
        state.flush(force=True)
        if state.wants_compaction:
            state.begin(iter([bytes(1000)]))
        while state.step():
            pass
        assert len(state._pending) < 2 << 20


def test_a_table_that_was_replaced_goes_in_parts() -> None:
    table = Table(Zone)
    records = frozenset(Record(f"s{n}.shop.svc.cluster.local", "A", "10.96.0.1") for n in range(1000))
    for revision in (1, 2):
        for frame in (Begin(revision), Chunk(records), End(revision)):
            table.take(frame)
    parts = 1
    while table.shed(100):
        parts += 1
    assert parts >= 10
    assert (len(table.zone), table.shed()) == (1000, False)
