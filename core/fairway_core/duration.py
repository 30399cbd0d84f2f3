"""Durations as the Gateway API writes them (GEP-2257): up to four parts such as 1h30m, 10s or 250ms; no fractions, no signs."""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:[0-9]{1,5}(?:h|ms|m|s)){1,4}")
_PART = re.compile(r"([0-9]+)(h|ms|m|s)")
_UNITS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def milliseconds(text: str) -> int:
    """The length of a duration. Raises ValueError for what is none."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a duration (such as 1h30m, 10s or 250ms)")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))
