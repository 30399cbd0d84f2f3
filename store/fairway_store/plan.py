"""What a commit would change, decided before anything is written. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fairway_core.errors import ConflictError
from fairway_core.keys import Key
from fairway_store.api import ABSENT, ANY, Changed, Entry, Put, Write
from fairway_store.text import check, to_text


@dataclass(frozen=True, slots=True)
class Stored:
    """An object at rest: the revision of its last change and its canonical text."""

    revision: int
    text: str


@dataclass(frozen=True, slots=True)
class PreparedWrite:
    """A write whose document is already canonical text; `text` None deletes. Made in the caller's thread."""

    key: Key
    text: str | None
    expected: int


Changes = Mapping[Key, str | None]
Lookup = Callable[[Key], Stored | None]


def prepare(writes: Sequence[Write]) -> tuple[PreparedWrite, ...]:
    """Turn writes into text. Raises UserError for a document that is not JSON, and for a key that no store would take."""
    for write in writes:
        check(write.key)
    return tuple(
        PreparedWrite(write.key, to_text(write.key, write.document) if isinstance(write, Put) else None, write.expected)
        for write in writes
    )


def plan(writes: Sequence[PreparedWrite], current: Lookup, revision: int) -> Changes:
    """The net changes `writes` make to what `current` shows, if committed as `revision`: key -> new text, None for deletion.

    Promise: writes take effect in order, a later one sees an earlier one; what ends as it began is left out; nothing is
    returned unless every expectation holds. Raises ConflictError naming the key.
    """
    before: dict[Key, Stored | None] = {}
    after: dict[Key, Stored | None] = {}
    for write in writes:
        if write.key not in before:
            before[write.key] = after[write.key] = current(write.key)
        have = after[write.key]
        _expect(write, have)
        if (have.text if have else None) != write.text:
            after[write.key] = None if write.text is None else Stored(revision, write.text)
    return {key: _text(after[key]) for key, old in before.items() if _text(after[key]) != _text(old)}


def _text(stored: Stored | None) -> str | None:
    return stored.text if stored else None


def _expect(write: PreparedWrite, have: Stored | None) -> None:
    actual = have.revision if have else ABSENT
    if write.expected in (ANY, actual):
        return
    if write.expected == ABSENT:
        raise ConflictError(f"{write.key}: already exists (revision {actual})")
    if actual == ABSENT:
        raise ConflictError(f"{write.key}: does not exist, expected revision {write.expected}")
    raise ConflictError(f"{write.key}: is at revision {actual}, expected {write.expected}")


def events(changes: Changes, revision: int) -> tuple[Changed, ...]:
    """The watch events of one commit."""
    return tuple(changed(key, text, revision) for key, text in changes.items())


def changed(key: Key, text: str | None, revision: int) -> Changed:
    """The watch event of one change."""
    return Changed(key, None if text is None else Entry(key, text, revision), revision)
