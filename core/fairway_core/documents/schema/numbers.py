"""Bounds of whole numbers."""

from __future__ import annotations

from collections.abc import Callable

from fairway_core.documents.errors import shown


def whole(low: int, high: int) -> Callable[[int], int]:
    """A check that a number is within these bounds, both included; it raises ValueError."""

    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"must be between {low} and {high}, not {shown(number)}")
        return number

    return check
