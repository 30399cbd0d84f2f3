"""Reading request bodies strictly."""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from fairway_core.errors import UserError
from fairway_core.keys import Key, kind_named

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


async def json_object(request: web.Request, *allowed: str) -> dict[str, Any]:
    """The body as a JSON object with no fields but `allowed`. Raises UserError."""
    raw = await request.read() or b"{}"
    try:
        body = json.loads(raw)
        if _SURROGATE.search(raw):
            # JSON can say half a character; nothing behind this place can store or compare one.
            json.dumps(body, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise UserError("the body is not a JSON object")
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        raise UserError(f"unknown field {unknown[0]!r} in the body")
    return body


def key_from(item: object) -> Key:
    """A key from `{"kind", "namespace", "name"}`. Raises UserError."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str) or not isinstance(item.get("kind"), str):
        raise UserError("a key is an object with kind, namespace and name")
    namespace = item.get("namespace") or "default"
    if not isinstance(namespace, str):
        raise UserError("a key's namespace is text")
    kind = kind_named(item["kind"])
    return Key(kind.name, namespace if kind.namespaced else "", item["name"])


def number_parameter(request: web.Request, name: str, default: float) -> float:
    """A query parameter as a finite, non-negative number. Raises UserError naming it."""
    text = request.query.get(name, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise UserError(f"{name}: {text!r} is not a number") from error
    if not 0 <= value < 1e18:
        raise UserError(f"{name}: {text!r} is out of range")
    return value
