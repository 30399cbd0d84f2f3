"""The store contract: documents by key, every change with a revision.

Written so that etcd (mod_revision, watch from revision, compaction) and the Kubernetes API (resourceVersion, 410 Gone,
bookmarks) fit behind it. Documents are JSON-shaped and opaque to the store; decoding is `fairway_core.codec`'s business.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from fairway_core.errors import FairwayError
from fairway_core.keys import Key
from fairway_store.text import from_text, to_text

Document = Mapping[str, Any]

ANY: Final = -1
"""Expected revision that always holds: overwrite whatever is there."""
ABSENT: Final = 0
"""Expected revision of an object that must not exist yet."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored object: the canonical text of its document, and the revision of its last change.

    Holding entries costs what their text costs, which the store holds anyhow: a decoded document takes several times as much.
    """

    key: Key
    text: str
    revision: int

    @classmethod
    def of(cls, key: Key, document: Document, revision: int) -> Entry:
        """The entry of a document. Raises UserError for one that is not JSON."""
        return cls(key, to_text(key, document), revision)

    @property
    def document(self) -> Document:
        """The document, decoded anew at each call: take it once, and it is the caller's own."""
        return from_text(self.text)


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries as they stood at `revision`, sorted by key."""

    entries: tuple[Entry, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace. `expected` is ANY, ABSENT or the revision the object must have."""

    key: Key
    document: Document
    expected: int = ANY


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove. With ANY a missing object is no error; with a revision it must be there with that revision."""

    key: Key
    expected: int = ANY


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Changed:
    """Watch event: the entry now, or `entry` None for a deletion. Events of one commit share a revision and come together."""

    key: Key
    entry: Entry | None
    revision: int


@dataclass(frozen=True, slots=True)
class InSync:
    """Watch event: everything up to `revision` has been delivered (etcd progress notify, Kubernetes bookmark)."""

    revision: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A commit that watchers see. `durable` ends when it is on the disk, and raises StoreUnavailable if it cannot be."""

    revision: int
    durable: Awaitable[object]


class Expired(FairwayError):
    """The revision to watch from is compacted away: list again and watch from there."""


class Store(Protocol):
    """Promise: commits are atomic and durable when `commit` returns; revisions grow by one per commit that changes something.

    Leases (time-limited keys) will come as `Put(..., lease=...)`; nothing here stands in their way.
    """

    async def list(self, kind: str | None = None) -> Listing:
        """Every entry, or those of one kind, at one revision. Raises StoreUnavailable."""

    def watch(self, revision: int) -> AsyncIterator[tuple[Changed, ...] | InSync]:
        """Every commit after `revision`, in order, one tuple per commit; then an InSync whenever the end is reached.

        A commit is shown when it survives this process, which may be a moment before it is durable: what follows it in the kernel
        does not outlive the machine either.
        Ends when the store is closed. Raises Expired if that far back is no longer known.
        """

    async def commit(self, writes: Sequence[Write]) -> int:
        """All writes or none, in order; the new revision, or the current one if nothing changed.

        Raises ConflictError naming the key if an expectation does not hold, StoreUnavailable if it cannot be made durable.
        """

    async def submit(self, writes: Sequence[Write]) -> Accepted:
        """`commit` for whoever has work while the disk is at its own. Raises as it does, but for what `durable` raises."""

    async def get(self, key: Key) -> Entry | None:
        """The entry now."""

    async def close(self) -> None:
        """End watches and release files. Idempotent."""
