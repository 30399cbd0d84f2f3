"""Replies made in the batch loop, when a plain query comes for the first time since its name was as it is. Pure.

A worker that has just been started, or given another table, has no prepared replies. Were each name's first answer made the long
way, it would fall behind just when it takes over; here it costs hardly more than a prepared one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from math import inf
from typing import Final

from fairway_dns.answer import MAX_ROTATIONS
from fairway_dns.counters import Counters
from fairway_dns.fastcache import BARE_OPT, Entry, cacheable
from fairway_dns.measure import NameKinds
from fairway_dns.prepared import Prepared
from fairway_dns.records import pack_own
from fairway_dns.table import Table
from fairway_dns.views import Asker
from fairway_dns.wire import AAAA, ANY, HEADER, NOERROR, RD, SRV, A, Query, Tail, parse_query, render
from fairway_dns.zone import TTL, Node

SHAPES: Final = 256
"""Shapes remembered; clients of one kind send but a few."""
MOST: Final = 32
"""Records; a larger set is built where it holds up nobody."""
AHEAD: Final = 16_384
"""Replies made before a worker serves: half of what fits, and a tenth of a second."""
PLAIN: Final = struct.pack("!HHHHH", RD, 1, 0, 0, 0)
"""Octets 2 to 12 of a query as most clients send it."""
REST: Final = (4, 4 + BARE_OPT)
"""Octets behind the name of a plain query."""


@dataclass(slots=True)
class _Shape:
    """What replies have in common whose queries differ in id and name alone. `size` is how long they may be, `heads` are octets 2
    to 12 by number of answers, `end` the OPT record, `cells` the counts by kind of name and view.
    """

    query: Query
    size: int
    end: bytes
    heads: dict[int, bytes] = field(default_factory=dict)
    cells: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def head(self, answers: int) -> bytes:
        found = self.heads.get(answers)
        if found is None:
            found = self.heads[answers] = render(self.query, Tail(NOERROR, True, answers))[2:HEADER]
        return found


class Fresh:
    """Promise: `reply` gives what the resolver would, and keeps it as a prepared reply; or nothing, if it takes more than the
    records of the name itself to answer, or may not be told at once. Its work is bounded by MOST records.
    """

    def __init__(self, table: Table, prepared: Prepared, counters: Counters, kinds: NameKinds) -> None:
        self._table, self._prepared, self._counters, self._kinds = table, prepared, counters, kinds
        self._shapes: dict[bytes, _Shape | None] = {}
        self._turn = 0

    def reply(self, asker: Asker, data: bytes) -> bytes | None:
        """The reply after its id for a query without a prepared one, or None. Counts the use."""
        end = data.find(0, HEADER) + 1
        rest = data[end:]
        if not end or len(rest) not in REST:
            return None
        zone, name = self._table.zone, data[HEADER:end].lower()
        node = zone.find(name)
        if node is None or zone.revision is None or asker.sight.watch is not None:
            return None
        shape = self._shape(data[2:HEADER] + rest, data)
        if shape is None or (zone.scoped and self._table.seen(asker.sight).find(name) is not node):
            return None
        made = self._made(asker, node, name, data[2:HEADER] + name + rest, shape)
        if made is None:
            return None
        reply, _length, _until, rotate, count, _aging = made
        count[0] += 1
        body = reply if rotate is None else rotate()
        # For a question in mixed case its own octets; they are as many.
        return b"".join((body[: HEADER - 2], data[HEADER:end], body[end - 2 :]))

    def prepare(self) -> int:
        """Make replies ahead to what is asked most, addresses without EDNS, where all see the same; how many. Bounded by AHEAD.

        For a worker that does not serve yet, since it goes through the whole table.
        """
        zone, made = self._table.zone, 0
        if zone.scoped or zone.revision is None:
            return 0
        done: tuple[bytes, int] | None = None
        for name, rtype, _data, _scope in zone.records():
            if made >= AHEAD:
                break
            node = zone.find(name)
            if rtype in (A, AAAA) and node is not None and done != (name, rtype):
                done = name, rtype
                rest = rtype.to_bytes(2, "big") + b"\0\1"
                shape = self._shape(PLAIN + rest, b"\0\0" + PLAIN + name + rest)
                entry = shape and self._made(self._table.views.anybody, node, name, PLAIN + name + rest, shape)
                made += entry is not None
        return made

    def _made(self, asker: Asker, node: Node, name: bytes, key: bytes, shape: _Shape) -> Entry | None:
        """A new prepared reply, if the records of the node are the answer."""
        records = node.sets.get(shape.query.qtype)
        if not records or len(records) > MOST:
            return None
        try:
            packed = pack_own(name, shape.query.qtype, TTL, records)
        except ValueError:
            return None  # Data that is none: the long way tells the client and the log.
        front = shape.head(len(packed)) + key[HEADER - 2 : HEADER + 2 + len(name)]
        length = 2 + len(front) + sum(map(len, packed)) + len(shape.end)
        if length > shape.size:
            return None
        reply, rotate = self._rotations(front, packed, shape.end)
        entry = reply, length, inf, rotate, self._cell(asker, name, shape), None
        self._prepared.shared(asker).keep(key, entry, name)
        return entry

    def _rotations(self, front: bytes, packed: list[bytes], end: bytes) -> tuple[bytes, Callable[[], bytes] | None]:
        if len(packed) == 1:
            return b"".join((front, packed[0], end)), None
        self._turn += 1
        # Many workers that start together must not all begin with the same record.
        turned = [self._turn + first for first in range(min(len(packed), MAX_ROTATIONS))]
        starts = [start % len(packed) for start in turned]
        replies = [b"".join((front, *packed[start:], *packed[:start], end)) for start in starts]
        return replies[0], cycle(replies).__next__

    def _shape(self, key: bytes, data: bytes) -> _Shape | None:
        try:
            return self._shapes[key]
        except KeyError:
            if len(self._shapes) >= SHAPES:
                self._shapes.clear()
            found = self._shapes[key] = _shape_of(data)
            return found

    def _cell(self, asker: Asker, name: bytes, shape: _Shape) -> list[int]:
        label = self._kinds.of(name), asker.sight.label if self._table.zone.scoped else ""
        found = shape.cells.get(label)
        if found is None:
            found = self._counters.cell(shape.query.qtype, NOERROR, False, *label)
            shape.cells[label] = found
        return found


def _shape_of(data: bytes) -> _Shape | None:
    query = parse_query(data)
    if query is None or query.qtype in (SRV, ANY) or not cacheable(data, query):
        return None
    return _Shape(query, query.udp_limit, render(query, Tail())[HEADER + len(query.question) :])
