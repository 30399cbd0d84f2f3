"""Plain (unquoted) YAML scalars to JSON values.

As Kubernetes reads them (YAML 1.1 booleans, legacy octal numbers), less what has no counterpart in JSON or only surprises: dates,
base 60, underscores in numbers, infinities stay text. Source: YAML 1.1 types int, float, bool, null; YAML 1.2 core schema.
"""

from __future__ import annotations

import math
import re

Scalar = bool | int | float | str | None

_WORDS: dict[str, bool | None] = {
    spelling: value
    for word, value in {
        "null": None, "true": True, "false": False, "yes": True, "no": False, "on": True, "off": False,
    }.items()
    for spelling in (word, word.capitalize(), word.upper())
} | {"": None, "~": None}  # fmt: skip
_LONGEST_WORD = max(map(len, _WORDS))
_NUMBER_STARTS = frozenset("-+.0123456789")
_INTEGER = re.compile(r"([-+]?)(?:0b([01]+)|0x([0-9a-fA-F]+)|0o?([0-7]+)|([1-9][0-9]*|0))")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_DIGITS = 400


def resolve(text: str) -> Scalar:
    """The value of a plain scalar. Raises ValueError for a number too large to carry."""
    if len(text) <= _LONGEST_WORD and text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    integer = _INTEGER.fullmatch(text)
    if integer:
        return _integer(integer)
    return finite(text) if _FLOAT.fullmatch(text) else text


def _integer(match: re.Match[str]) -> int:
    sign, *digits = match.groups()
    if len(match[0]) > _DIGITS:
        raise ValueError("number too large")
    magnitude = next(int(text, base) for text, base in zip(digits, (2, 16, 8, 10), strict=True) if text)
    return -magnitude if sign == "-" else magnitude


def finite(text: str) -> float:
    """The number. Raises ValueError for one too large to carry."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("number too large")
    return value
