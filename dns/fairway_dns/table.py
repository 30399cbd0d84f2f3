"""What a worker does with the frames of its feed. Sans-io: frames in, acknowledgement out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fairway_dns.names import to_key
from fairway_dns.protocol import Ack, Begin, Chunk, Delta, End, Frame, ProtocolError
from fairway_dns.zone import Zone, ZoneDelta

Changed = Callable[[Iterable[bytes] | None], None]
"""Is told the names (keys) that a delta touched, or None when the whole table is another one."""


class Table:
    """The zone served now, and the one that a snapshot under way builds beside it.

    Promise: `zone` is always a whole revision: a snapshot shows only when it is complete, a delta all at once. `changed` is
    called before `take` returns, so that nothing built from an older revision is ever used after its acknowledgement.
    """

    def __init__(self, make: Callable[[], Zone], changed: Changed | None = None) -> None:
        self._make = make
        self._changed = changed or (lambda _names: None)
        self._building: Zone | None = None
        self.zone = make()

    def take(self, frame: Frame) -> Ack | None:
        """Apply one frame; an Ack if a revision became visible. Raises ProtocolError for a frame out of place or data that is
        none.
        """
        try:
            return self._take(frame)
        except (ValueError, KeyError) as error:
            raise ProtocolError(f"zone data cannot be used: {error}") from error

    def _take(self, frame: Frame) -> Ack | None:
        building = self._building
        match frame:
            case Begin():
                self._building = self._make()
                return None
            case Chunk(records) if building is not None:
                building.apply(ZoneDelta(add=records))
                return None
            case End(revision) if building is not None:
                building.revision = revision
                self.zone, self._building = building, None
                self._changed(None)
                return Ack(revision)
            case Delta(delta, revision) if building is None and self.zone.revision is not None:
                self._apply(delta, revision)
                return Ack(revision)
        raise ProtocolError(f"{type(frame).__name__} is out of place")

    def _apply(self, delta: ZoneDelta, revision: int) -> None:
        try:
            self.zone.apply(delta, revision)
            names = {to_key(record.name) for record in delta.add | delta.remove}
        except (ValueError, KeyError):
            # It may be in place in part; the agent sends a whole table next.
            self._changed(None)
            raise
        self._changed(names)
