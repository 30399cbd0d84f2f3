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

    @property
    def owns_pods(self) -> bool:
        """Whether Pod objects are made here; if not, an API server has them."""

    async def expect_pod(self, key: Key, uid: str) -> None:
        """Wait until the Pod that somebody else declares is in the world, with `uid` unless that is empty.

        Returns at once where Pods are made here. Raises StoreUnavailable if it does not come.
        """

    async def entry(self, key: Key) -> Entry | None:
        """The stored object now, with the revision to expect when writing it back. Raises StoreUnavailable."""

    async def commit(self, writes: Sequence[Write]) -> int:
        """Commit, and wait until the revision is live in nft; returns the revision.

        Raises ConflictError or StoreUnavailable if nothing was stored, TimeoutError if it is stored but not live in time.
        """

    async def named(self, revision: int) -> None:
        """Wait until names of `revision` are answered; not for long, since a dead DNS worker must not stop containers."""

    async def commit_quietly(self, writes: Sequence[Write]) -> int:
        """Commit durably without waiting for the kernel. Raises ConflictError, StoreUnavailable."""

    def not_ready(self) -> str:
        """Why an ADD cannot succeed now, in words; empty if it can. Answers at once."""
