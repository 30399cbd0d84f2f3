"""`fairway diff`: what apply would change, as a unified diff of canonical YAML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import unified_diff
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.documents import read_documents
from fairway_cli.options import agent_option, files_option
from fairway_cli.render import paint, to_yaml

RED, GREEN, CYAN = 31, 32, 36


@click.command("diff")
@files_option(required=True)
@agent_option
def command(files: tuple[str, ...], recursive: bool, client: Client) -> int:
    """Show the difference between the objects now and after apply. Exit code 1 if there is one."""
    results = client.apply(read_documents(files, recursive), dry_run=True)["results"]
    lines = [line for item in results for line in diff_lines(item)]
    for line in lines:
        print(_painted(line))
    return 1 if lines else 0


def diff_lines(item: Mapping[str, Any]) -> Iterator[str]:
    """Unified diff lines of one apply result; none if nothing changes."""
    key = item["key"]
    name = "/".join(part for part in (key["kind"], key.get("namespace"), key["name"]) if part)
    return unified_diff(_lines(item.get("before")), _lines(item["after"]), f"live/{name}", f"applied/{name}", lineterm="")


def _lines(document: Mapping[str, Any] | None) -> list[str]:
    return to_yaml(document).splitlines() if document else []


def _painted(line: str) -> str:
    if line.startswith(("+++", "---")):
        return line
    colour = {"+": GREEN, "-": RED, "@": CYAN}.get(line[:1])
    return paint(line, colour) if colour else line
