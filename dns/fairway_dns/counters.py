"""Counts of one worker: "name:label" -> number since its start. Labels come from small fixed sets, so the table is bounded."""

from __future__ import annotations

from collections.abc import Mapping

from fairway_dns.wire import RCODES, TYPE_NAMES


class Counters:
    """What happened so far. The agent turns the table into Prometheus metrics (see README.md, "Metrics")."""

    def __init__(self) -> None:
        self._single: dict[str, int] = {}
        self._cells: dict[tuple[str, ...], list[int]] = {}

    def add(self, name: str, label: str = "", count: int = 1) -> None:
        """`count` more of `name` (with `label`)."""
        key = f"{name}:{label}"
        self._single[key] = self._single.get(key, 0) + count

    def query(self, qtype: int, transport: str) -> None:
        """A query came in."""
        self.add("queries", TYPE_NAMES.get(qtype, "other"))
        self.add("transport", transport)

    def reply(self, rcode: int) -> None:
        """A reply goes out."""
        self.add("replies", RCODES.get(rcode, "other"))

    def cell(self, qtype: int, rcode: int, cached: bool) -> list[int]:
        """A one-element list to count up for each query over UDP of this type that gets this rcode from the fast path."""
        keys = [f"queries:{TYPE_NAMES.get(qtype, 'other')}", "transport:udp", f"replies:{RCODES.get(rcode, 'other')}", "fast:"]
        if cached:
            keys.append("cache_hits:")
        return self._cells.setdefault(tuple(keys), [0])

    def named(self, name: str, label: str) -> list[int]:
        """A one-element list to count `name` with `label` up by."""
        return self._cells.setdefault((f"{name}:{label}",), [0])

    @property
    def values(self) -> Mapping[str, int]:
        """A copy of all counts."""
        found = dict(self._single)
        for keys, (count,) in self._cells.items():
            for key in keys if count else ():
                found[key] = found.get(key, 0) + count
        return found
