"""`fairway delete`: remove objects by name, or those of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, files_option, kind_argument, namespace_option, option, output_option
from fairway_core.errors import NotFoundError
from fairway_core.keys import BY_NAME, Key, Kind


@click.command("delete")
@kind_argument()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@files_option(required=False)
@namespace_option
@option("--ignore-not-found", is_flag=True, help="An object that does not exist is no error.")
@output_option("text", "name", envvar="FAIRWAY_DELETE_OUTPUT")
@agent_option
def command(
    kind: Kind | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    recursive: bool,
    namespace: str,
    ignore_not_found: bool,
    output: str,
    client: Client,
) -> int:
    """Delete the named objects of KIND, or the objects that files describe."""
    if bool(files) == bool(kind):
        raise click.UsageError("give either KIND NAME or -f FILE")
    if kind and not names:
        raise click.UsageError("NAME is missing")
    keys = _keys_of_files(files, recursive) if kind is None else _keys(kind, names, namespace)
    results = client.delete(keys)["results"]
    _print(results, output)
    missing = [NotFoundError(f"{_name(item)} does not exist") for item in results if item["action"] == "absent"]
    if missing and not ignore_not_found:
        raise ExceptionGroup("missing", missing)
    return 0


def _keys(kind: Kind, names: Sequence[str], namespace: str) -> list[Key]:
    return [Key(kind.name, namespace if kind.namespaced else "", name) for name in names]


def _keys_of_files(files: Sequence[str], recursive: bool) -> list[Key]:
    # Validating loads PyYAML and pydantic; deleting by name does without.
    from fairway_cli.documents import read_documents
    from fairway_core.codec import key_of

    return [key_of(document) for document in read_documents(files, recursive)]


def _print(results: Sequence[Mapping[str, Any]], output: str) -> None:
    for item in results:
        if item["action"] == "deleted":
            print(_name(item) if output == "name" else f"{_name(item)} deleted")


def _name(item: Mapping[str, Any]) -> str:
    key = item["key"]
    kind = BY_NAME.get(key["kind"])
    return f"{kind.name.lower() if kind else key['kind']}/{key['name']}"
