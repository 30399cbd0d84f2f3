"""Documents as text: the formats of `-o`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fairway_cli.columns import columns
from fairway_cli.table import Table
from fairway_core.keys import Kind

Document = Mapping[str, Any]


def print_documents(documents: Sequence[Document], kind: Kind, output: str, *, single: bool, all_namespaces: bool) -> None:
    """Print in the format `output`; `single` prints a document of its own instead of a List."""
    if output in ("table", "wide"):
        table_for(kind, output, all_namespaces)(documents)
    elif output == "name":
        print_names(documents, kind)
    else:
        whole: Document = documents[0] if single else {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        print(to_json(whole) if output == "json" else to_yaml(whole), end="")


def table_for(kind: Kind, output: str, all_namespaces: bool) -> _Rows:
    """A printer of rows; call it with each batch of documents."""
    return _Rows(kind, wide=output == "wide", namespaced=all_namespaces and kind.namespaced)


class _Rows:
    def __init__(self, kind: Kind, *, wide: bool, namespaced: bool) -> None:
        self._columns = columns(kind.name, wide=wide, namespaced=namespaced)
        self._table = Table([column.title for column in self._columns], print)

    def __call__(self, documents: Sequence[Document]) -> None:
        self._table.rows([column.cell(document) for column in self._columns] for document in documents)


def print_names(documents: Sequence[Document], kind: Kind) -> None:
    """One `service/web` per line, as kubectl's `-o name`."""
    for document in documents:
        print(f"{kind.name.lower()}/{document['metadata']['name']}")


def to_json(value: object) -> str:
    """Indented JSON with a final newline."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def to_yaml(value: object) -> str:
    """Canonical YAML: sorted keys, block style. PyYAML is loaded only here."""
    import yaml

    text: str = yaml.dump(
        value, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), default_flow_style=False, allow_unicode=True
    )
    return text


def paint(text: str, colour: int) -> str:
    """`text` in an ANSI colour (31 red, 32 green, 33 yellow), if standard output is a terminal and NO_COLOR is not set."""
    plain = os.environ.get("NO_COLOR") or not sys.stdout.isatty() or os.environ.get("TERM") == "dumb"
    return text if plain else f"\x1b[{colour}m{text}\x1b[0m"
