"""Documents as canonical JSON text: equal documents give equal text, so that a commit which changes nothing is seen as such."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from fairway_core.errors import UserError
from fairway_core.keys import Key


def to_text(key: Key, document: Mapping[str, Any]) -> str:
    """ASCII JSON with sorted keys and no spaces.

    Raises UserError for anything JSON cannot carry (NaN, sets, keys of mixed types, cycles), and for a key that is not
    Unicode text: both would be refused by some store, so all refuse them.
    """
    try:
        str(key).encode()
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as fault:
        raise UserError(f"{str(key)!a}: not a JSON document: {fault}") from fault


def from_text(text: str) -> Mapping[str, Any]:
    """The document; a fresh one at each call."""
    return cast("Mapping[str, Any]", json.loads(text))
