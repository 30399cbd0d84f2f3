"""What is wrong right now, by a key that is cleared when it is right again. Shown by `fairway status` and /metrics."""

from __future__ import annotations

import logging

SHOWN = 50
"""Of one sort: a version that does not understand a whole kind has a problem with each object of it."""


class Problems:
    """Open problems. Each is logged when it opens and when it closes, not while it lasts."""

    def __init__(self, log: logging.Logger) -> None:
        self._open: dict[str, str] = {}
        self._blocking: set[str] = set()
        self._log = log

    def report(self, key: str, text: str, blocking: bool = True) -> None:
        """Open (or reword) the problem `key`. One that is not `blocking` is shown, but the node stays ready."""
        (self._blocking.add if blocking else self._blocking.discard)(key)
        if self._open.get(key) != text:
            self._open[key] = text
            self._log.error(text, extra={"problem": key})

    def clear(self, key: str) -> None:
        """Close it, if it is open."""
        if self._open.pop(key, None) is not None:
            self._log.info("problem solved", extra={"problem": key})

    def text(self, key: str) -> str:
        """The problem `key` in words; empty if it is not open."""
        return self._open.get(key, "")

    def texts(self) -> list[str]:
        """One line per open problem, in a fixed order; of very many of one sort the first, and how many more there are."""
        by_sort: dict[str, list[str]] = {}
        for key in sorted(self._open):
            by_sort.setdefault(key.partition(":")[0], []).append(self._open[key])
        return [line for sort, lines in by_sort.items() for line in _shortened(sort, lines)]

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def open(self) -> dict[str, str]:
        """Every open problem by its key."""
        return dict(self._open)

    def blocking(self) -> list[str]:
        """Those that keep the node from being ready."""
        return [self._open[key] for key in sorted(self._open) if key in self._blocking]


def _shortened(sort: str, lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"and {more} more problems of this sort ({sort})"]
