"""Names whose addresses are let through before anybody hears them: for whom, and which. Pure.

A scope is a number that stands for those who may connect to the addresses of the same names. Its patterns are names
("api.example") and suffixes with a star in front ("*.example": one label or more before `example`, as in NPEP-133 of the network
policy API).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fairway_core.keys import Key
from fairway_dns.names import suffixes, to_key

MAX_SCOPE = (1 << 31) - 1
STAR = "*."

Scopes = tuple[int, ...]


def pattern_key(pattern: str) -> tuple[bytes, bool]:
    """The name in a pattern as a key, and whether names below it are meant. Raises ValueError for what is no pattern."""
    below = pattern.startswith(STAR)
    name = pattern.removeprefix(STAR) if below else pattern
    if not name.strip(".") or "*" in name:
        raise ValueError(f"no pattern of names: {pattern!r} (expected NAME or *.NAME)")
    return to_key(name), below


def scope_number(text: str) -> int:
    """The scope written as decimal digits. Raises ValueError."""
    number = int(text)
    if not 0 < number <= MAX_SCOPE:
        raise ValueError(f"no scope: {text!r}")
    return number


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched for somebody: `patterns` are pairs of scope and pattern. Equal ones watch the same."""

    patterns: frozenset[tuple[int, str]]
    _names: Mapping[bytes, Scopes] = field(compare=False, repr=False)
    _below: Mapping[bytes, Scopes] = field(compare=False, repr=False)

    @classmethod
    def of(cls, patterns: Iterable[tuple[int, str]]) -> Watch:
        """Raises ValueError for what is no pattern."""
        kept = frozenset(patterns)
        names: dict[bytes, Scopes] = {}
        below: dict[bytes, Scopes] = {}
        for scope, pattern in sorted(kept):
            key, star = pattern_key(pattern)
            book = below if star else names
            book[key] = _with(book.get(key, ()), (scope,))
        return cls(kept, names, below)

    def scopes(self, name: bytes) -> Scopes:
        """The scopes with a pattern that fits a name (a key), in order. One look per label."""
        found = self._names.get(name, ())
        if self._below:
            for pos, suffix in suffixes(name):
                more = self._below.get(suffix) if pos else None
                if more is not None:
                    found = _with(found, more)
        return found


def _with(some: Scopes, more: Scopes) -> Scopes:
    return tuple(sorted({*some, *more}))


class EgressRules(Protocol):
    """Who may connect to which names: what a policy that knows names must tell. Asked while no step of the world is being worked
    on; `patterns` at any time, by any thread.
    """

    def patterns(self) -> Mapping[int, frozenset[str]]:
        """The patterns of each scope. Never changed in place: another object if anything is different."""

    def scopes(self, pod: Key) -> frozenset[int]:
        """The scopes that a pod belongs to."""

    def take_changes(self) -> frozenset[Key]:
        """The pods that belong to other scopes than at the last call."""


class NoEgressRules:
    """Nothing is watched."""

    def __init__(self) -> None:
        self._patterns: Mapping[int, frozenset[str]] = {}

    def patterns(self) -> Mapping[int, frozenset[str]]:
        return self._patterns

    def scopes(self, pod: Key) -> frozenset[int]:
        return frozenset()

    def take_changes(self) -> frozenset[Key]:
        return frozenset()
