"""Reading the documents a user names with -f: files, directories, standard input.

Promise: every fault of every file is reported, not only the first. PyYAML and the schemas are loaded here, so commands that
take no files must not import this module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fairway_core.documents import InvalidDocuments, validate
from fairway_core.errors import Place, UserError

SUFFIXES = (".yaml", ".yml", ".json")


def read_documents(names: Sequence[str], recursive: bool = False) -> list[dict[str, Any]]:
    """The validated documents of `names` (file, directory or `-`), in order.

    Raises UserError for what cannot be read or is not valid, and for an input without documents.
    """
    documents: list[dict[str, Any]] = []
    faults: list[UserError] = []
    for source, text in _sources(names, recursive):
        try:
            documents.extend(dict(loaded.document) for loaded in validate(source, text))
        except InvalidDocuments as error:
            faults.extend(error.errors)
    if faults:
        raise InvalidDocuments(faults)
    if not documents:
        raise UserError(f"no documents in {', '.join(names)}")
    return documents


def _sources(names: Sequence[str], recursive: bool) -> Iterator[tuple[str, str]]:
    for name in names:
        if name == "-":
            yield "<stdin>", sys.stdin.read()
            continue
        path = Path(name)
        for file in _files(path, recursive) if path.is_dir() else [path]:
            yield str(file), _text(file)


def _files(folder: Path, recursive: bool) -> list[Path]:
    pattern = "**/*" if recursive else "*"
    return sorted(file for file in folder.glob(pattern) if file.suffix in SUFFIXES and file.is_file())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(error.strerror or str(error), Place(str(file))) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", Place(str(file))) from error
