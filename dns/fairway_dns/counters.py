"""Counts of one worker: "name:label" -> number since its start. Labels come from small fixed sets, so the table is bounded."""

from __future__ import annotations

from collections.abc import Mapping

from fairway_dns.wire import RCODES, TYPE_NAMES


class Counters:
    """What happened so far. The agent turns the table into Prometheus metrics (see README.md, "Metrics")."""

    def __init__(self) -> None:
        self._single: dict[str, int] = {}
        self._cells: dict[tuple[str, ...], list[int]] = {}
        self._answers: dict[tuple[str, int, int, str, str, str], int] = {}

    def add(self, name: str, label: str = "", count: int = 1) -> None:
        """`count` more of `name` (with `label`)."""
        key = f"{name}:{label}"
        self._single[key] = self._single.get(key, 0) + count

    def query(self, qtype: int, transport: str) -> None:
        """A query came in."""
        self.add("queries", TYPE_NAMES.get(qtype, "other"))
        self.add("transport", transport)

    def reply(self, kind: str, qtype: int, rcode: int, transport: str, path: str, view: str = "") -> None:
        """A reply goes out. `kind` is that of the name (`measure.NameKinds`), `path` how it was found: local or forwarded; `view`
        a label for what its receiver may see, empty if all see the same.
        """
        self.add("replies", RCODES.get(rcode, "other"))
        key = kind, qtype if qtype in TYPE_NAMES else 0, rcode, transport, path, view
        self._answers[key] = self._answers.get(key, 0) + 1

    def cell(self, qtype: int, rcode: int, cached: bool, kind: str = "", view: str = "") -> list[int]:
        """A one-element list to count up for each query over UDP of this type that gets this rcode from the fast path."""
        keys = [f"queries:{TYPE_NAMES.get(qtype, 'other')}", "transport:udp", f"replies:{RCODES.get(rcode, 'other')}", "fast:"]
        keys.append(_answer(kind, qtype, rcode, "udp", "fast", view))
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
        for parts, answers in self._answers.items():
            key = _answer(*parts)
            found[key] = found.get(key, 0) + answers
        for keys, (count,) in self._cells.items():
            for key in keys if count else ():
                found[key] = found.get(key, 0) + count
        return found


def _answer(kind: str, qtype: int, rcode: int, transport: str, path: str, view: str) -> str:
    """The key of an answer: its labels, in this order, the view only if there is one."""
    labels = (kind, TYPE_NAMES.get(qtype, "other"), RCODES.get(rcode, "other"), transport, path, *((view,) if view else ()))
    return "answers:" + "/".join(labels)
