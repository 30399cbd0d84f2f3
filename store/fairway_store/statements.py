"""The SQL of the store's file: layout, and commits of any size as one statement each.

A statement costs the interpreter's lock several times, and a commit of a container in ten statements waited longer for its turns
than for the disk. So a commit is two: one reads what the writes touch, one writes everything (rows as one JSON array, spread by
triggers), which SQLite carries out as a transaction of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from fairway_core.keys import Key

APPLICATION_ID = 0x46574159  # "FWAY": tells our file from any other SQLite file.
LAYOUT = 1

LAYOUT_SQL = f"""
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

CONNECTION_SQL = """
CREATE TEMP VIEW change AS SELECT 0 AS revision, '' AS kind, '' AS namespace, '' AS name, '' AS document, 0 AS floor WHERE 0;
CREATE TEMP TRIGGER put INSTEAD OF INSERT ON change WHEN NEW.document IS NOT NULL BEGIN
  INSERT INTO object (kind, namespace, name, revision, document)
    VALUES (NEW.kind, NEW.namespace, NEW.name, NEW.revision, NEW.document)
    ON CONFLICT DO UPDATE SET revision = excluded.revision, document = excluded.document;
  INSERT INTO journal (revision, kind, namespace, name, document)
    VALUES (NEW.revision, NEW.kind, NEW.namespace, NEW.name, NEW.document);
END;
CREATE TEMP TRIGGER remove INSTEAD OF INSERT ON change WHEN NEW.document IS NULL AND NEW.kind IS NOT NULL BEGIN
  DELETE FROM object WHERE kind = NEW.kind AND namespace = NEW.namespace AND name = NEW.name;
  INSERT INTO journal (revision, kind, namespace, name) VALUES (NEW.revision, NEW.kind, NEW.namespace, NEW.name);
END;
CREATE TEMP TRIGGER finish INSTEAD OF INSERT ON change WHEN NEW.kind IS NULL BEGIN
  UPDATE state SET revision = NEW.revision, floor = NEW.floor;
  DELETE FROM journal WHERE revision <= NEW.floor;
END;
"""
"""What every connection needs: rows put into `change` go where they belong. `finish` ends a commit."""

FIND = """
SELECT object.kind, object.namespace, object.name, object.revision, object.document
FROM json_each(?) AS wanted CROSS JOIN object
  ON object.kind = json_extract(wanted.value, '$[0]') AND object.namespace = json_extract(wanted.value, '$[1]')
  AND object.name = json_extract(wanted.value, '$[2]')
"""
"""Objects by key; its parameter is made by `keys_text`."""

CHANGE = """
INSERT INTO change (revision, kind, namespace, name, document, floor)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'), json_extract(value, '$[3]'),
  json_extract(value, '$[4]'), json_extract(value, '$[5]')
FROM json_each(?)
"""
"""A whole transaction; its parameter is made by `rows_text`."""

OLDEST_KEPT = "SELECT revision FROM journal WHERE position <= ? ORDER BY position DESC LIMIT 1"
POSITIONS = "SELECT min(position), max(position) FROM journal"


def keys_text(keys: Iterable[Key]) -> str:
    """The parameter of FIND."""
    return json.dumps([[key.kind, key.namespace, key.name] for key in keys])


Row = tuple[int, str, str, str, str | None]
"""Revision, kind, namespace, name, document or None for a deletion."""


def rows_text(rows: Iterable[Row], revision: int, floor: int) -> str:
    """The parameter of CHANGE: rows in order of revision, then what the state becomes."""
    return json.dumps([*rows, (revision, None, None, None, None, floor)])
