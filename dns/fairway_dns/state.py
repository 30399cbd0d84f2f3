"""The table of a worker on disk, so that it can answer right after its start: a snapshot, then deltas appended to it.

The file holds protocol frames. A snapshot is written beside it and renamed; deltas are gathered and appended at most once a
second. When the deltas outgrow the snapshot, the whole is written anew. A cut-off or damaged end is ignored: what stands before
it is a valid older table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fairway_core.clock import Clock
from fairway_dns.protocol import Frame, FrameReader, ProtocolError, decode

INTERVAL = 1.0
COMPACT_FLOOR = 1 << 20


class StateFile:
    """Promise: no method raises for the disk's sake; `error` tells what went wrong last. Cost follows the octets added; what is
    kept in memory while the disk takes nothing is bounded by a few times the table.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        self._clock = clock
        self._pending = bytearray()
        self._whole = False
        self._snapshot_size = 0
        self._deltas = 0
        """Octets of deltas behind the latest snapshot, on disk or not."""
        self._making: Iterator[bytes] | None = None
        self._made, self._since = bytearray(), bytearray()
        self._torn = False
        self._written_at = float("-inf")
        self.error: OSError | None = None

    def load(self) -> Iterable[Frame]:
        """The frames that can be read, in order; none if there is no file."""
        data = b""
        with suppress(FileNotFoundError):
            try:
                data = self._path.read_bytes()
            except OSError as error:
                self.error = error
        with suppress(ProtocolError):
            for body in FrameReader().feed(data):
                yield decode(body)

    def replace(self, frames: Iterable[bytes]) -> None:
        """A new table: its encoded frames take the place of the file's contents at the next `flush`."""
        self._start_with(bytearray(b"".join(frames)), b"")

    def _start_with(self, snapshot: bytearray, deltas: bytes) -> None:
        self._snapshot_size, self._deltas = len(snapshot), len(deltas)
        self._pending = snapshot + deltas
        self._whole, self._torn, self._making = True, False, None

    def append(self, frame: bytes) -> None:
        """One more encoded delta."""
        self._pending += frame
        self._deltas += len(frame)
        if self._making is not None:
            self._since += frame

    def begin(self, frames: Iterator[bytes]) -> None:
        """As `replace`, frame by frame: one with each `step`. `frames` are of the table as it is now."""
        self._making, self._made, self._since = frames, bytearray(), bytearray()

    def step(self) -> bool:
        """Whether there is more of the table to take."""
        if self._making is None:
            return False
        frame = next(self._making, None)
        if frame is not None:
            self._made += frame
            return True
        self._start_with(self._made, bytes(self._since))
        self._made, self._since = bytearray(), bytearray()
        return False

    @property
    def wants_compaction(self) -> bool:
        """Whether the deltas have outgrown the snapshot or one was written in part: the owner should `begin` with the whole
        table.
        """
        return self._making is None and (self._torn or self._deltas > max(COMPACT_FLOOR, 2 * self._snapshot_size))

    def flush(self, force: bool = False) -> None:
        """Write what is pending, unless the last write was less than a second ago."""
        now = self._clock.monotonic()
        if not self._pending or (not force and now - self._written_at < INTERVAL):
            return
        self._written_at = now
        try:
            self._write()
            self.error = None
        except OSError as error:
            # Its traceback would hold on to what could not be written.
            self.error = error.with_traceback(None)
            self._torn = self._torn or not self._whole

    def _write(self) -> None:
        if self._whole:
            self._temporary.write_bytes(self._pending)
            self._temporary.replace(self._path)
        else:
            with self._path.open("ab") as file:
                file.write(self._pending)
        self._pending, self._whole = bytearray(), False
