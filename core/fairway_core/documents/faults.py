"""What pydantic found wrong, in the words of our users."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fairway_core.documents.errors import REPORTED, Fault, Path, shown
from fairway_core.documents.schema.base import RULES, ApiObject

_TYPES = {
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "bool_type": "must be true or false",
}
_LONGEST_GUESS = 64


def faults_of(model: type[ApiObject], error: ValidationError) -> list[Fault]:
    """Every fault in `error`, which came from `model`; suggestions for the first REPORTED of them."""
    found: list[Fault] = []
    for detail in error.errors(include_url=False):
        found.extend(_faults(model, detail, guess=len(found) < REPORTED))
    return found


def _faults(model: type[ApiObject], detail: Any, guess: bool) -> list[Fault]:
    kind, path, value = detail["type"], detail["loc"], detail["input"]
    if kind == RULES:
        return [Fault((*path, *fault.path), fault.message, fault.at_key) for fault in detail["ctx"]["faults"]]
    if kind == "extra_forbidden":
        hint = _suggestion(str(path[-1]), fields_at(model, path[:-1])) if guess else ""
        return [Fault(path, f"unknown field {shown(str(path[-1]))}{hint}", at_key=True)]
    at_key = bool(path) and path[-1] == "[key]"
    return [Fault(path[:-1] if at_key else path, _message(kind, detail, value), at_key)]


def _message(kind: str, detail: Any, value: Any) -> str:
    if kind == "missing":
        return "is required"
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "literal_error":
        wanted = detail["ctx"]["expected"]
        return f"must be {wanted}, not {shown(value)}"
    if kind == "string_type":
        quote = ": write it in quotes" if isinstance(value, (bool, int, float)) else ""
        return f"must be text, not {shown(value)}{quote}"
    if kind == "int_type":
        quoted = isinstance(value, str) and value.isascii() and value.isdigit()
        return f"must be a whole number, not {shown(value)}{': write it without quotes' if quoted else ''}"
    if kind in _TYPES:
        return f"{_TYPES[kind]}, not {shown(value)}"
    return str(detail["msg"])


def _suggestion(name: str, known: list[str]) -> str:
    if len(name) > _LONGEST_GUESS:
        return ""
    same = [field for field in known if field.lower() == name.lower()]
    close = same or get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def fields_at(model: type[ApiObject], path: Path) -> list[str]:
    """The names a mapping at `path` inside `model` may have; empty if that is not an object of the schema."""
    inner: type[ApiObject] | None = model
    for step in path:
        if inner is not None and isinstance(step, str):
            inner = next((_object_in(field.annotation) for name, field in _fields(inner) if name == step), None)
    return sorted([*(name for name, _ in _fields(inner)), *inner.accepted]) if inner else []


def _fields(model: type[BaseModel]) -> list[tuple[str, Any]]:
    return [(field.alias or name, field) for name, field in model.model_fields.items()]


def _object_in(annotation: Any) -> type[ApiObject] | None:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation if issubclass(annotation, ApiObject) else None
    return next((found for part in get_args(annotation) if (found := _object_in(part)) is not None), None)
