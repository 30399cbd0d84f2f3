"""The SQLite file behind SqliteStore: transactions, durability, errors. Synchronous; used by one thread.

Layout (`statements.py`): `object` is what is stored now, `journal` the last changes in order, `state` the current revision and
the oldest one a watch can start from. Every transaction moves all three together.

A commit is visible when `apply` returns (it survives the end of this process) and durable when `sync` does (it survives the
machine's). With synchronous=NORMAL SQLite itself syncs the write-ahead log before it copies it into the file, and nothing else.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path

from fairway_core.errors import ConflictError, StoreUnavailable
from fairway_core.keys import Key
from fairway_store.api import Entry, Expired, Listing
from fairway_store.feed import Commit
from fairway_store.plan import Changes, PreparedWrite, Stored, changed, plan
from fairway_store.statements import (
    APPLICATION_ID,
    CHANGE,
    CONNECTION_SQL,
    FIND,
    LAYOUT,
    LAYOUT_SQL,
    OLDEST_KEPT,
    POSITIONS,
    Row,
    keys_text,
    rows_text,
)

READ_AHEAD = 512
"""Changes read from the journal at a time (at least one whole commit)."""
FOLD_AFTER = 200
"""Changes after which the write-ahead log is copied into the file, in a moment when nobody waits for it."""
LOG_PAGES = 10_000
"""Pages at which SQLite does that by itself, whoever waits."""
SLACK = 64
"""The journal may outgrow its limit by this part of it, so that not every commit has to trim it."""

Outcome = tuple[int, Changes]
"""The revision a commit ended at, and its net changes (empty: nothing changed)."""


class Database:
    """One connection that survives errors: after a failed write it is rolled back, and reopened if even that fails."""

    def __init__(self, path: Path, journal: int, lock_timeout: float) -> None:
        """Open or create. `journal` bounds the changes kept; `lock_timeout` is in seconds.

        Raises StoreUnavailable naming the file if it is damaged, foreign, newer, locked by another process or unreachable.
        """
        self.path = path
        self._journal_limit = journal
        self._lock_timeout = lock_timeout
        self._connection: sqlite3.Connection | None = None
        self._log = -1
        self._unfolded = 0
        self._gap = False
        """Whether the log may have one on the disk: a log ends there at a restart, whatever was synced behind."""
        self._revision = self._floor = self._oldest = self._newest = 0
        with self._errors("cannot be opened"):
            self._live()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=self._lock_timeout, isolation_level=None)
        try:
            # Exclusive: live watches are fed by this process, so a second writer must find the door locked.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreUnavailable(f"{self.path}: cannot be opened: its file system supports no write-ahead log")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            self._prepare_layout(connection)
            connection.executescript(CONNECTION_SQL)
            self._load(connection)
            self._log = _open_log(self.path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_layout(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, layout, tables) == (0, 0, 0):
            connection.executescript(LAYOUT_SQL)
            return
        if application != APPLICATION_ID:
            raise StoreUnavailable(f"{self.path}: is not a Fairway store but some other SQLite file")
        if layout != LAYOUT:
            raise StoreUnavailable(f"{self.path}: has layout {layout}, this version reads layout {LAYOUT}")
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise StoreUnavailable(f"{self.path}: is damaged: {verdict}")
        spoilt = connection.execute("SELECT kind, name FROM object WHERE NOT json_valid(document) LIMIT 1").fetchone()
        if spoilt is not None:
            raise StoreUnavailable(f"{self.path}: is damaged: the text of {spoilt[0]} {spoilt[1]} is not JSON")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("COMMIT")

    def _errors(self, what: str) -> _Translate:
        return _Translate(self.path, what)

    def _live(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _load(self, connection: sqlite3.Connection) -> None:
        """What is remembered of the file, which nobody else writes."""
        self._revision, self._floor = connection.execute("SELECT revision, floor FROM state").fetchone()
        self._oldest, self._newest = _positions(connection)

    def _reset(self) -> None:
        """After a failed write: as the file says; a connection that cannot even do that is thrown away."""
        if self._connection is None:
            return
        try:
            self._load(self._connection)
        except sqlite3.Error:
            self.close()

    def apply(self, group: Sequence[Sequence[PreparedWrite]]) -> list[Outcome | ConflictError]:
        """Commit every member of `group` in one transaction; each gets its own revision, or its own conflict. See `sync`.

        Raises StoreUnavailable, and then none of them is applied.
        """
        try:
            with self._errors("cannot be written"):
                connection = self._live()
                if self._gap:
                    self._leave_log(connection)
                return self._apply(connection, group)
        except BaseException:
            self._reset()
            raise

    def _apply(self, connection: sqlite3.Connection, group: Sequence[Sequence[PreparedWrite]]) -> list[Outcome | ConflictError]:
        start = revision = self._revision
        current = _find(connection, [write.key for writes in group for write in writes])
        rows: list[Row] = []
        outcomes: list[Outcome | ConflictError] = []
        for writes in group:
            try:
                changes = plan(writes, current.get, revision + 1)
            except ConflictError as conflict:
                outcomes.append(conflict)
                continue
            if changes:
                revision += 1
                rows += [(revision, key.kind, key.namespace, key.name, text) for key, text in changes.items()]
                current |= {key: Stored(revision, text) if text is not None else None for key, text in changes.items()}
            outcomes.append((revision, changes))
        if revision != start:
            self._write(connection, rows, revision)
        return outcomes

    def _write(self, connection: sqlite3.Connection, rows: Sequence[Row], revision: int) -> None:
        """One transaction. The journal loses whole commits from its old end; the newest stays whatever its size."""
        newest = self._newest + len(rows)
        floor = self._floor
        if newest - self._oldest >= self._journal_limit + self._journal_limit // SLACK:
            floor = max(floor, self._new_floor(connection, newest - self._journal_limit, rows, revision))
        connection.execute(CHANGE, (rows_text(rows, revision, floor),))
        self._unfolded += len(rows)
        if floor == self._floor:
            self._revision, self._newest = revision, newest
        else:
            self._load(connection)

    def _new_floor(self, connection: sqlite3.Connection, position: int, rows: Sequence[Row], revision: int) -> int:
        """The revision up to which all goes, for the row at `position`, stored or about to be, to go too."""
        if position > self._newest:
            return min(rows[position - self._newest - 1][0], revision - 1)
        cut = connection.execute(OLDEST_KEPT, (position,)).fetchone()
        return min(int(cut[0]), revision - 1) if cut else 0

    def sync(self) -> None:
        """Wait until what was applied is on the disk. Raises StoreUnavailable if that cannot be told."""
        try:
            with self._errors("cannot be made durable"):
                self._live()
                os.fdatasync(self._log)
        except BaseException:
            # What the disk has is to be read anew.
            self._gap = True
            self.close()
            raise

    def _leave_log(self, connection: sqlite3.Connection) -> None:
        """Have the file itself hold everything, and begin the log anew. Raises StoreUnavailable, sqlite3.Error."""
        (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreUnavailable(f"{self.path}: cannot be written: its log could not be synced and is in use")
        self._gap = False

    def fold(self) -> None:
        """Copy the write-ahead log into the file if it is long. An error is met again by the next commit."""
        if self._connection is None or self._unfolded < FOLD_AFTER:
            return
        self._unfolded = 0
        try:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error:
            self._reset()

    def revision(self) -> int:
        """The current revision. Raises StoreUnavailable."""
        with self._errors("cannot be read"):
            self._live()
            return self._revision

    def list(self, kind: str | None) -> Listing:
        """See `Store.list`."""
        with self._errors("cannot be read"):
            connection = self._live()
            where, values = ("WHERE kind = ?", (kind,)) if kind is not None else ("", ())
            rows = connection.execute(
                f"SELECT kind, namespace, name, revision, document FROM object {where} ORDER BY kind, namespace, name", values
            )
            entries = tuple(Entry(Key(*row[:3]), row[4], row[3]) for row in rows)
            return Listing(entries, self._revision)

    def get(self, key: Key) -> Entry | None:
        """See `Store.get`."""
        with self._errors("cannot be read"):
            stored = _find(self._live(), [key]).get(key)
            return Entry(key, stored.text, stored.revision) if stored else None

    def journal(self, revision: int) -> Sequence[Commit]:
        """The next commits after `revision`, at most about READ_AHEAD changes. Raises Expired, StoreUnavailable."""
        with self._errors("cannot be read"):
            connection = self._live()
            if revision < self._floor:
                raise Expired(f"revision {revision} is no longer known, the oldest is {self._floor}: list again")
            last = connection.execute(
                "SELECT revision FROM journal WHERE revision > ? ORDER BY revision, position LIMIT 1 OFFSET ?",
                (revision, READ_AHEAD - 1),
            ).fetchone()
            rows = connection.execute(
                "SELECT kind, namespace, name, document, revision FROM journal "
                "WHERE revision > ? AND revision <= ? ORDER BY position",
                (revision, last[0] if last else 1 << 62),
            )
            found = (changed(Key(*row[:3]), row[3], row[4]) for row in rows)
            return [tuple(commit) for _, commit in groupby(found, key=lambda item: item.revision)]

    def close(self) -> None:
        """Release the file. Idempotent; an error while closing is of no use to anybody."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(OSError):
                os.close(self._log)
            with suppress(sqlite3.Error):
                connection.close()


class _Translate:
    """Turns what SQLite and the file system raise into StoreUnavailable with the file's name."""

    def __init__(self, path: Path, what: str) -> None:
        self._prefix = f"{path}: {what}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, trace: object) -> None:
        if isinstance(fault, sqlite3.OperationalError) and fault.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise StoreUnavailable(f"{self._prefix}: another process has it open") from fault
        if isinstance(fault, (sqlite3.Error, OSError)):
            raise StoreUnavailable(f"{self._prefix}: {fault}") from fault


def _find(connection: sqlite3.Connection, keys: Sequence[Key]) -> dict[Key, Stored | None]:
    rows = connection.execute(FIND, (keys_text(keys),)).fetchall()
    return {Key(*row[:3]): Stored(*row[3:]) for row in rows}


def _positions(connection: sqlite3.Connection) -> tuple[int, int]:
    """The first and the last position of the journal that is in use; (1, 0) of an empty one, whose next is 1."""
    oldest, newest = connection.execute(POSITIONS).fetchone()
    return (oldest, newest) if oldest is not None else (1, 0)


def _open_log(path: Path) -> int:
    """SQLite's write-ahead log as a descriptor to sync, its name made durable. The connection never changes to another file."""
    log = Path(f"{path.resolve()}-wal")
    directory = os.open(log.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return os.open(log, os.O_RDWR | os.O_CLOEXEC)
