"""What this component needs from the agent around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fairway_core.keys import Key
from fairway_core.world import World
from fairway_store.api import Entry, Write


class Control(Protocol):
    """The agent as the attacher sees it."""

    def world(self) -> World:
        """The newest snapshot; it contains every `commit` that has returned."""

    async def entry(self, key: Key) -> Entry | None:
        """The stored object now, with the revision to expect when writing it back. Raises StoreUnavailable."""

    async def commit(self, writes: Sequence[Write]) -> int:
        """Commit, and wait until the revision is live in nft and DNS; returns the revision.

        Raises ConflictError or StoreUnavailable if nothing was stored, TimeoutError if it is stored but not live in time.
        """

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        """Commit durably without waiting for the kernel. Raises ConflictError, StoreUnavailable."""

    def not_ready(self) -> str:
        """Why an ADD cannot succeed now, in words; empty if it can. Answers at once."""
