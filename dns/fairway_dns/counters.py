"""Counts of one worker: "name:label" -> number since its start. Labels come from small fixed sets, so the table is bounded."""

from __future__ import annotations

from fairway_dns.wire import RCODES, TYPE_NAMES


class Counters:
    """What happened so far. The agent turns the table into Prometheus metrics (see README.md, "Metrics")."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def add(self, name: str, label: str = "") -> None:
        """One more of `name` (with `label`)."""
        key = f"{name}:{label}"
        self.values[key] = self.values.get(key, 0) + 1

    def query(self, qtype: int, transport: str) -> None:
        """A query came in."""
        self.add("queries", TYPE_NAMES.get(qtype, "other"))
        self.add("transport", transport)

    def reply(self, rcode: int) -> None:
        """A reply goes out."""
        self.add("replies", RCODES.get(rcode, "other"))
