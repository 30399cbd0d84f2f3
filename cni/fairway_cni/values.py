"""Decoded JSON, field by field. Pure. Each function raises CniError with code 7 that names the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fairway_cni import faults
from fairway_cni.faults import CniError


def fold(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with lower-case keys; of two that differ in case only the later wins, as in Go."""
    return {key.lower(): value for key, value in mapping.items()}


def bad(where: str, wanted: str) -> CniError:
    return CniError(faults.CONFIG, f"{where}: {wanted} expected")


def as_object(value: Any, where: str) -> Mapping[str, Any]:
    """An object; absent means empty."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad(where, "an object")
    return value


def as_array(value: Any, where: str) -> list[Any]:
    """A list; absent means empty."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise bad(where, "a list")
    return value


def as_text(value: Any, where: str) -> str:
    """Text; absent means empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise bad(where, "text")
    return value


def as_texts(value: Any, where: str) -> tuple[str, ...]:
    """A list of texts, empty ones left out."""
    return tuple(as_text(item, where) for item in as_array(value, where) if item)


def as_number(value: Any, where: str) -> int:
    """A whole number; absent means 0."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool):
        raise bad(where, "a number")
    return value
