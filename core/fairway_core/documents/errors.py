"""Faults in documents, and the one error that carries all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from fairway_core.errors import Place, UserError

Path = tuple[str | int, ...]

REPORTED = 100
"""Errors told at most; the rest is only counted."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PRINTABLE = re.compile(r"[A-Za-z0-9_./-]+")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the field at `path`; `at_key` points at the field's name rather than at its value."""

    path: Path
    message: str
    at_key: bool = False


class InvalidDocuments(UserError):
    """Everything that is wrong with the input, one line per fault; `errors` has them one by one, each with its place."""

    def __init__(self, errors: Sequence[UserError]) -> None:
        single = len(errors) == 1
        lines = [error.message if single else str(error) for error in errors[:REPORTED]]
        if len(errors) > REPORTED:
            lines.append(f"and {len(errors) - REPORTED} more")
        super().__init__("\n".join(lines), errors[0].place if single else None)
        self.errors = tuple(errors)


def field_text(path: Path) -> str:
    """A path as users write it: `spec.ports[0].port`, `metadata.labels[app.kubernetes.io/name]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{step}]" if _PRINTABLE.fullmatch(step) else f"[{shown(step)}]"
    return text


def shown(value: object) -> str:
    """A value short enough for a message, in printable ASCII."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ascii(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def error_at(file: str, line: int, column: int, path: Path, message: str) -> UserError:
    """A UserError for one fault. `line` and `column` count from 1, 0 if unknown."""
    return UserError(message, Place(file, line, column, field_text(path)))
