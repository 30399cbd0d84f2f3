"""YAML (and JSON, its subset) to plain values that remember where they stood.

Works on the events of libyaml, so nothing is built before it is judged: tags, duplicate fields, merge keys, deep nesting and
alias bombs are refused while reading, and time and memory stay proportional to the text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from yaml._yaml import CParser
from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from fairway_core.documents.errors import REPORTED, InvalidDocuments, Path, field_text, shown
from fairway_core.documents.scalars import finite, resolve
from fairway_core.errors import Place, UserError

MAX_SIZE = 64 << 20
"""Characters of one input at most."""
MAX_DEPTH = 100
"""Levels of nesting at most; the deepest real object has about 20."""


Spot = tuple[int, int, "dict[str, Spot] | list[Spot] | None"]
"""Positions of a field's name (or NOWHERE) and of its value, and the spots of its parts by field or index.

Numbers in plain tuples, because the garbage collector need not look into those: with an object per position it took four
fifths of the time of loading 10,000 documents.
"""
NOWHERE = -1
_COLUMNS = 1 << 24


def _position(mark: Any) -> int:
    """Line and column of a libyaml mark, both from 0, in one number."""
    return int(mark.line * _COLUMNS + min(mark.column, _COLUMNS - 1))


@dataclass(frozen=True, slots=True)
class Parsed:
    """One document of the input: its plain value and where everything in it came from (None: unknown)."""

    value: Any
    source: str
    spot: Spot | None

    def part(self, step: str | int) -> Parsed:
        """A part of it as a document of its own. The step must exist."""
        return Parsed(self.value[step], self.source, _part(self.spot, step) if self.spot else None)

    def place(self, path: Path, at_key: bool = False) -> Place:
        """The place of the field at `path`, or of the closest part around it that exists."""
        spot, found = self.spot, True
        for step in path:
            if spot is None or not found:
                break
            inner = _part(spot, step)
            spot, found = inner or spot, inner is not None
        if spot is None:
            return Place(self.source, field=field_text(path))
        return _place(self.source, spot[0] if at_key and found and spot[0] != NOWHERE else spot[1], path)


def _place(source: str, position: int, path: Path = ()) -> Place:
    line, column = divmod(position, _COLUMNS)
    return Place(source, line + 1, column + 1, field_text(path))


def _part(spot: Spot, step: str | int) -> Spot | None:
    found: Spot | None = None
    parts = spot[2]
    if isinstance(parts, dict) and isinstance(step, str):
        found = parts.get(step)
    elif isinstance(parts, list) and isinstance(step, int) and step < len(parts):
        found = parts[step]
    return found


def parse(source: str, text: str | bytes) -> list[Parsed]:
    """Every document that is not empty. `source` names the input in messages.

    Raises InvalidDocuments with every fault found up to the first one of syntax; never anything else.
    """
    decoded = _decode(source, text)
    reader = _Reader(source, decoded)
    documents = _read(reader, decoded)
    if reader.errors:
        raise InvalidDocuments(reader.errors)
    return documents


def _decode(source: str, text: str | bytes) -> str:
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text.removeprefix("\ufeff")
        decoded.encode()
    except UnicodeError as fault:
        raise InvalidDocuments([UserError(f"is not UTF-8 text: {fault.reason}", Place(source))]) from fault  # type: ignore[attr-defined]
    if len(decoded) > MAX_SIZE:
        raise InvalidDocuments([UserError(f"is larger than {MAX_SIZE >> 20} MiB", Place(source))])
    return decoded


def _read(reader: _Reader, text: str) -> list[Parsed]:
    """The documents; faults go to `reader.errors`. What is JSON is read as JSON, and YAML only tells where things stand.

    The two differ in escapes and white space (a fault in YAML, then places are unknown) and in U+0085, U+2028 and U+2029, which
    YAML 1.1 folds like line breaks.
    """
    exact = _read_json(text)
    documents: list[Parsed] = []
    try:
        documents.extend(reader.documents())
    except (YAMLError, ValueError) as fault:
        if exact is not None:
            reader.errors.clear()
            return [Parsed(exact, reader.source, None)]
        reader.errors.append(_syntax_error(reader.source, fault))
    except _Stop:
        pass
    return documents if exact is None else [Parsed(exact, reader.source, item.spot) for item in documents]


def _syntax_error(source: str, fault: Exception) -> UserError:
    if isinstance(fault, MarkedYAMLError):
        mark = fault.problem_mark or fault.context_mark
        message = ", ".join(filter(None, (fault.problem, fault.context)))
        return UserError(f"cannot be read: {message}", _place(source, _position(mark)) if mark else Place(source))
    # ReaderError: a character that YAML forbids; it tells an offset only.
    return UserError(f"cannot be read: {' '.join(str(fault).split())}", Place(source))


def _read_json(text: str) -> Any:
    """The value if `text` is one JSON object, else None."""
    if not text.lstrip().startswith("{"):
        return None
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=finite)
        _measure(value, MAX_DEPTH)
        return value
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate field")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _measure(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("too deep")
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _measure(part, depth - 1)


class _Stop(Exception):
    """Reading cannot go on; the reason is in `errors`."""


class _Reader:
    """One pass over the events of one input."""

    def __init__(self, source: str, text: str) -> None:
        self.source = source
        self.errors: list[UserError] = []
        self._parser = CParser(text)
        self._anchors: dict[str, tuple[Any, Spot]] = {}
        # No value takes less than a character, so only aliases can ever exceed this.
        self._budget = len(text) + 1000

    def documents(self) -> Iterator[Parsed]:
        """Every document. Raises YAMLError, ValueError, _Stop."""
        while True:
            event = self._parser.get_event()
            if isinstance(event, StreamEndEvent):
                return
            if isinstance(event, (StreamStartEvent, DocumentStartEvent, DocumentEndEvent)):
                self._anchors = {}
                continue
            value, spot = self._node(event, NOWHERE, 0)
            if value is not None:
                yield Parsed(value, self.source, spot)

    def _complain(self, position: int, message: str) -> None:
        self.errors.append(UserError(message, _place(self.source, position)))
        if len(self.errors) > REPORTED:
            raise _Stop

    def _stop(self, position: int, message: str) -> NoReturn:
        self._complain(position, message)
        raise _Stop

    def _spend(self, position: int, depth: int) -> None:
        self._budget -= 1
        if self._budget < 0:
            self._stop(position, "aliases expand to more than the text itself")
        if depth > MAX_DEPTH:
            self._stop(position, f"nested deeper than {MAX_DEPTH} levels")

    def _node(self, event: Any, key: int, depth: int) -> tuple[Any, Spot]:
        position = _position(event.start_mark)
        self._spend(position, depth)
        if isinstance(event, AliasEvent):
            return self._alias(event, position, key, depth)
        if event.tag is not None:
            self._complain(position, f"tags are not supported: {shown(event.tag)}")
        value: Any
        parts: dict[str, Spot] | list[Spot] | None = None
        if isinstance(event, ScalarEvent):
            value = self._scalar(event, position)
        elif isinstance(event, MappingStartEvent):
            value, parts = self._mapping(depth)
        else:
            assert isinstance(event, SequenceStartEvent)
            value, parts = self._sequence(depth)
        spot = (key, position, parts)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, spot)
        return value, spot

    def _scalar(self, event: Any, position: int) -> Any:
        text: str = event.value
        if not event.implicit[0]:
            return text
        try:
            return resolve(text)
        except ValueError as fault:
            self._complain(position, f"{fault}: {shown(text)}")
            return None

    def _sequence(self, depth: int) -> tuple[list[Any], list[Spot]]:
        values: list[Any] = []
        spots: list[Spot] = []
        while not isinstance(event := self._parser.get_event(), SequenceEndEvent):
            value, spot = self._node(event, NOWHERE, depth + 1)
            values.append(value)
            spots.append(spot)
        return values, spots

    def _mapping(self, depth: int) -> tuple[dict[str, Any], dict[str, Spot]]:
        values: dict[str, Any] = {}
        spots: dict[str, Spot] = {}
        event: Any
        while not isinstance(event := self._parser.get_event(), MappingEndEvent):
            key, (_, position, _) = self._node(event, NOWHERE, depth + 1)
            value, spot = self._node(self._parser.get_event(), position, depth + 1)
            if not isinstance(key, str):
                self._complain(position, f"a field name must be text, not {shown(key)}: write it in quotes")
            elif key == "<<" and isinstance(event, ScalarEvent) and event.implicit[0]:
                self._complain(position, "merge keys (<<) are not supported: write the fields out")
            elif key in values:
                first = _place(self.source, spots[key][0])
                self._complain(position, f"duplicate field {shown(key)}, first on line {first.line}")
            else:
                values[key], spots[key] = value, spot
        return values, spots

    def _alias(self, event: Any, position: int, key: int, depth: int) -> tuple[Any, Spot]:
        found = self._anchors.get(event.anchor)
        if found is None:
            self._stop(position, f"alias of an anchor that is not there or not complete: {shown(event.anchor)}")
        value, (_, _, parts) = found
        return self._copy(value, position, depth), (key, position, parts)

    def _copy(self, value: Any, position: int, depth: int) -> Any:
        """Aliases give copies: the result is a tree that can be changed in one place."""
        self._spend(position, depth)
        if isinstance(value, dict):
            return {key: self._copy(part, position, depth + 1) for key, part in value.items()}
        if isinstance(value, list):
            return [self._copy(part, position, depth + 1) for part in value]
        return value
