"""What a worker does with the frames of its feed. Sans-io: frames in, acknowledgement out."""

from __future__ import annotations

from collections.abc import Callable

from fairway_dns.protocol import Ack, Begin, Chunk, Delta, End, Frame, ProtocolError
from fairway_dns.zone import Zone, ZoneDelta


class Table:
    """The zone served now, and the one that a snapshot under way builds beside it.

    Promise: `zone` is always a whole revision: a snapshot shows only when it is complete, a delta all at once.
    """

    def __init__(self, make: Callable[[], Zone]) -> None:
        self._make = make
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
                return Ack(revision)
            case Delta(delta, revision) if building is None and self.zone.revision is not None:
                self.zone.apply(delta, revision)
                return Ack(revision)
        raise ProtocolError(f"{type(frame).__name__} is out of place")
