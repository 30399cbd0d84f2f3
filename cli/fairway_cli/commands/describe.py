"""`fairway describe`: an object in full, with what it relates to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.columns import pairs
from fairway_cli.options import agent_option, kind_argument, namespace_option
from fairway_cli.relations import relations
from fairway_core.keys import Kind
from fairway_core.unenforced import unenforced

FIRST = ("kind", "apiVersion", "metadata", "status")


@click.command("describe")
@kind_argument()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@namespace_option
@agent_option
def command(kind: Kind | None, names: tuple[str, ...], namespace: str, client: Client) -> int:
    """Show objects in full, with the endpoints, services and policies they relate to."""
    if kind is None:
        raise click.UsageError("KIND is missing")
    for position, name in enumerate(names):
        document = client.get(kind.plural, namespace if kind.namespaced else "", name)
        if position:
            print()
        for line in describe(document):
            print(line)
        for title, values in relations(client, document):
            print(f"{title}: {', '.join(values) or '<none>'}")
    return 0


def describe(document: Mapping[str, Any]) -> Iterator[str]:
    """The lines that describe one document: names first, then its own fields, then its status."""
    meta = document.get("metadata") or {}
    yield f"Name: {meta.get('name', '')}"
    if meta.get("namespace"):
        yield f"Namespace: {meta['namespace']}"
    yield f"Kind: {document.get('kind')} ({document.get('apiVersion')})"
    yield f"Labels: {pairs(meta.get('labels')) or '<none>'}"
    if meta.get("annotations"):
        yield f"Annotations: {pairs(meta['annotations'])}"
    for gap in unenforced(document):
        yield f"Not enforced: {gap.field} ({gap.reason})"
    rest = {name: value for name, value in document.items() if name not in FIRST}
    yield from _lines({**rest, **({"status": document["status"]} if document.get("status") else {})}, "")


def _lines(value: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, item in value.items():
        title = name[:1].upper() + name[1:] if not indent else name
        if isinstance(item, Mapping):
            yield f"{indent}{title}:" + ("" if item else " {}")
            yield from _lines(item, indent + "  ")
        elif isinstance(item, list) and any(isinstance(element, (Mapping, list)) for element in item):
            yield f"{indent}{title}:"
            yield from _items(item, indent)
        elif isinstance(item, list):
            yield f"{indent}{title}: {', '.join(map(_scalar, item)) or '<none>'}"
        else:
            yield f"{indent}{title}: {_scalar(item)}"


def _items(items: list[Any], indent: str) -> Iterator[str]:
    """List elements with a dash before their first field."""
    for element in items:
        lines = list(_lines(element, "")) if isinstance(element, Mapping) else [str(element)]
        for position, line in enumerate(lines or ["{}"]):
            mark = "- " if position == 0 else "  "
            yield f"{indent}{mark}{line[:1].lower() + line[1:]}"


def _scalar(value: object) -> str:
    return {True: "true", False: "false", None: "<none>"}.get(value, str(value)) if isinstance(value, bool | None) else str(value)
