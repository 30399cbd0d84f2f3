"""What a worker does with the frames of its feed. Sans-io: frames in, acknowledgement out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fairway_dns.names import to_key
from fairway_dns.protocol import Ack, Begin, Chunk, Delta, End, Frame, ProtocolError
from fairway_dns.seen import SeenZone
from fairway_dns.views import EVERYTHING, PATTERN, Sight, ViewDelta, Views
from fairway_dns.zone import Names, Zone, ZoneDelta


@dataclass(frozen=True, slots=True)
class Moved:
    """What a frame changed: `names` (keys) whose records, or whose visibility, are others now; None: the whole table.
    `views`: whether anybody's view is another. `patterns`: whether other names are watched.
    """

    names: frozenset[bytes] | None
    views: bool = False
    patterns: bool = False


Changed = Callable[[Moved], None]


class Table:
    """The zone served now with its views, and those that a snapshot under way builds beside them.

    Promise: `zone` and `views` are always of one whole revision: a snapshot shows only when it is complete, a delta all at once.
    `changed` is called before `take` returns, so that nothing built from an older revision is used after its acknowledgement.
    """

    def __init__(self, make: Callable[[], Zone], changed: Changed | None = None) -> None:
        self._make = make
        self._changed = changed or (lambda _moved: None)
        self._building: tuple[Zone, Views] | None = None
        self._seen: dict[Sight, SeenZone] = {}
        self._old: Zone | None = None
        self.zone, self.views = make(), Views()

    def seen(self, sight: Sight) -> Names:
        """The zone as somebody sees it. Good until the next frame."""
        if not self.zone.scoped or sight.tenant == EVERYTHING:
            return self.zone
        found = self._seen.get(sight)
        if found is None:
            found = self._seen[sight] = SeenZone(self.zone, self.views, sight)
        return found

    def shed(self, most: int = 500) -> bool:
        """Let go of so many names of the table before the last snapshot; whether there is more of it."""
        if self._old is not None and not self._old.shed(most):
            self._old = None
        return self._old is not None

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
            case Begin(_, scoped):
                zone = self._make()
                if scoped:
                    zone.keep_scopes()
                self._building = zone, Views()
                return None
            case Chunk(records, facts) if building is not None:
                building[0].apply(ZoneDelta(add=records))
                building[1].apply(ViewDelta(add=facts))
                return None
            case End(revision) if building is not None:
                building[0].revision = revision
                # Its end would take longer than that of any query; see `shed`.
                self._old = self.zone
                (self.zone, self.views), self._building, self._seen = building, None, {}
                self._changed(Moved(None, True, True))
                return Ack(revision)
            case Delta(delta, revision) if building is None and self.zone.revision is not None:
                self._apply(delta, revision)
                return Ack(revision)
        raise ProtocolError(f"{type(frame).__name__} is out of place")

    def _apply(self, delta: ZoneDelta, revision: int) -> None:
        self._seen = {}
        try:
            names = {to_key(record.name) for record in delta.add | delta.remove}
            scopes = self.views.apply(delta.views)
            # Names that go with this delta are among the records; those that stay are looked up after it.
            self.zone.apply(delta, revision)
        except (ValueError, KeyError):
            # It may be in place in part; the agent sends a whole table next.
            self._changed(Moved(None, True, True))
            raise
        names.update(*map(self.zone.of_scope, scopes))
        patterns = any(fact.kind == PATTERN for fact in delta.views.add | delta.views.remove)
        self._changed(Moved(frozenset(names), bool(delta.views), patterns))
