"""The SQLite file behind SqliteStore: layout, transactions, errors. Synchronous; used by one thread.

Layout: `object` is what is stored now, `journal` the last changes in order, `state` the current revision and the oldest
one a watch can start from. Every transaction moves all three together.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path

from fairway_core.errors import ConflictError, StoreUnavailable
from fairway_core.keys import Key
from fairway_store.api import Entry, Expired, Listing
from fairway_store.feed import Commit
from fairway_store.plan import Changes, PreparedWrite, Stored, changed, plan

APPLICATION_ID = 0x46574159  # "FWAY": tells our file from any other SQLite file.
LAYOUT = 1
READ_AHEAD = 512
"""Changes read from the journal at a time (at least one whole commit)."""

_SETUP = f"""
BEGIN IMMEDIATE;
CREATE TABLE object (kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL,
  document TEXT NOT NULL, PRIMARY KEY (kind, namespace, name));
CREATE TABLE journal (position INTEGER PRIMARY KEY, revision INTEGER NOT NULL, kind TEXT NOT NULL, namespace TEXT NOT NULL,
  name TEXT NOT NULL, document TEXT);
CREATE INDEX journal_revision ON journal (revision);
CREATE TABLE state (only INTEGER PRIMARY KEY CHECK (only = 0), revision INTEGER NOT NULL, floor INTEGER NOT NULL);
INSERT INTO state VALUES (0, 0, 0);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {LAYOUT};
COMMIT;
"""

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
        with self._errors("cannot be opened"):
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=self._lock_timeout, isolation_level=None)
        try:
            # Exclusive: live watches are fed by this process, so a second writer must find the door locked.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StoreUnavailable(f"{self.path}: cannot be opened: its file system supports no write-ahead log")
            connection.execute("PRAGMA synchronous = FULL")
            self._prepare_layout(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare_layout(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (layout,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (application, layout, tables) == (0, 0, 0):
            connection.executescript(_SETUP)
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

    def _reset(self) -> None:
        """Leave no transaction open; a connection that cannot even do that is thrown away."""
        connection = self._connection
        if connection is None:
            return
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            self.close()

    def apply(self, group: Sequence[Sequence[PreparedWrite]]) -> list[Outcome | ConflictError]:
        """Commit every member of `group` with one sync to disk; each gets its own revision, or its own conflict.

        Raises StoreUnavailable, and then none of them is applied.
        """
        try:
            with self._errors("cannot be written"):
                connection = self._live()
                connection.execute("BEGIN IMMEDIATE")
                outcomes = self._apply_all(connection, group)
                connection.execute("COMMIT")
                return outcomes
        except BaseException:
            self._reset()
            raise

    def _apply_all(
        self, connection: sqlite3.Connection, group: Sequence[Sequence[PreparedWrite]]
    ) -> list[Outcome | ConflictError]:
        start, floor = self._state(connection)
        revision = start
        outcomes: list[Outcome | ConflictError] = []
        for writes in group:
            try:
                changes = plan(writes, lambda key: _read(connection, key), revision + 1)
            except ConflictError as conflict:
                outcomes.append(conflict)
                continue
            if changes:
                revision += 1
                _write(connection, changes, revision)
            outcomes.append((revision, changes))
        if revision != start:
            floor = max(floor, self._trim(connection, revision))
            connection.execute("UPDATE state SET revision = ?, floor = ?", (revision, floor))
        return outcomes

    def _trim(self, connection: sqlite3.Connection, revision: int) -> int:
        """Drop whole commits from the journal's old end; the newest stays whatever its size. Returns the new floor."""
        (newest,) = connection.execute("SELECT max(position) FROM journal").fetchone()
        cut = connection.execute(
            "SELECT revision FROM journal WHERE position <= ? ORDER BY position DESC LIMIT 1", (newest - self._journal_limit,)
        ).fetchone()
        if cut is None:
            return 0
        floor = min(int(cut[0]), revision - 1)
        connection.execute("DELETE FROM journal WHERE revision <= ?", (floor,))
        return floor

    @staticmethod
    def _state(connection: sqlite3.Connection) -> tuple[int, int]:
        revision, floor = connection.execute("SELECT revision, floor FROM state").fetchone()
        return revision, floor

    def revision(self) -> int:
        """The current revision. Raises StoreUnavailable."""
        with self._errors("cannot be read"):
            return self._state(self._live())[0]

    def list(self, kind: str | None) -> Listing:
        """See `Store.list`."""
        with self._errors("cannot be read"):
            connection = self._live()
            where, values = ("WHERE kind = ?", (kind,)) if kind is not None else ("", ())
            rows = connection.execute(
                f"SELECT kind, namespace, name, revision, document FROM object {where} ORDER BY kind, namespace, name", values
            )
            entries = tuple(Entry(Key(*row[:3]), row[4], row[3]) for row in rows)
            return Listing(entries, self._state(connection)[0])

    def get(self, key: Key) -> Entry | None:
        """See `Store.get`."""
        with self._errors("cannot be read"):
            stored = _read(self._live(), key)
            return Entry(key, stored.text, stored.revision) if stored else None

    def journal(self, revision: int) -> Sequence[Commit]:
        """The next commits after `revision`, at most about READ_AHEAD changes. Raises Expired, StoreUnavailable."""
        with self._errors("cannot be read"):
            connection = self._live()
            _, floor = self._state(connection)
            if revision < floor:
                raise Expired(f"revision {revision} is no longer known, the oldest is {floor}: list again")
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
            try:
                connection.close()
            except sqlite3.Error:
                pass


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


def _read(connection: sqlite3.Connection, key: Key) -> Stored | None:
    with closing(
        connection.execute(
            "SELECT revision, document FROM object WHERE kind = ? AND namespace = ? AND name = ?",
            (key.kind, key.namespace, key.name),
        )
    ) as cursor:
        row = cursor.fetchone()
    return Stored(*row) if row else None


def _write(connection: sqlite3.Connection, changes: Changes, revision: int) -> None:
    for key, text in changes.items():
        place = (key.kind, key.namespace, key.name)
        if text is None:
            connection.execute("DELETE FROM object WHERE kind = ? AND namespace = ? AND name = ?", place)
        else:
            connection.execute(
                "INSERT INTO object (kind, namespace, name, revision, document) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET revision = excluded.revision, document = excluded.document",
                (*place, revision, text),
            )
        connection.execute(
            "INSERT INTO journal (revision, kind, namespace, name, document) VALUES (?, ?, ?, ?, ?)", (revision, *place, text)
        )
