"""Documents as canonical JSON text: equal documents give equal text, so that a commit which changes nothing is seen as such."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from fairway_core.errors import UserError
from fairway_core.keys import Key


def to_text(key: Key, document: Mapping[str, Any]) -> str:
    """ASCII JSON with sorted keys and no spaces.

    Raises UserError for anything JSON cannot carry (NaN, sets, keys of mixed types, cycles).
    """
    try:
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as fault:
        raise UserError(f"{str(key)!a}: not a JSON document: {fault}") from fault


def check(key: Key) -> None:
    """Raises UserError for a key that some store would refuse, or cut off: so all refuse it."""
    try:
        fit = b"\0" not in str(key).encode()
    except UnicodeEncodeError:
        fit = False
    if not fit:
        raise UserError(f"{str(key)!a}: a key is Unicode text without NUL")


def from_text(text: str) -> Mapping[str, Any]:
    """The document; a fresh one at each call."""
    return cast("Mapping[str, Any]", json.loads(text))
