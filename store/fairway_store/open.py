"""The store a configuration asks for."""

from __future__ import annotations

from pathlib import Path

from fairway_core.errors import UserError
from fairway_store.api import Store
from fairway_store.memory import MemoryStore
from fairway_store.sqlite import SqliteStore

KINDS = ("sqlite", "memory")


async def open_store(kind: str, path: Path | str) -> Store:
    """The store of `kind` (KINDS). `path` is the file of kind sqlite, created with its folder if missing; memory ignores it.

    Raises UserError for an unknown kind, StoreUnavailable if the file cannot be used.
    """
    if kind == "memory":
        return MemoryStore()
    if kind == "sqlite":
        return await SqliteStore.open(path)
    raise UserError(f"unknown kind of store {kind!r}; known kinds: {', '.join(KINDS)}")
