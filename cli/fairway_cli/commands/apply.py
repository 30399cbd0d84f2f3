"""`fairway apply`: create or change the objects that files describe, all or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.documents import read_documents
from fairway_cli.options import agent_option, files_option, option, output_option
from fairway_cli.render import to_json, to_yaml


@click.command("apply")
@files_option(required=True)
@option("--dry-run", is_flag=True, help="Let the agent check and answer, but change nothing.")
@option("--wait", is_flag=True, help="Return when the change is live in the kernel, the DNS server and the proxy.")
@option("--timeout", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds that --wait waits.")
@output_option("text", "name", "json", "yaml", envvar="FAIRWAY_APPLY_OUTPUT")
@agent_option
def command(
    files: tuple[str, ...], recursive: bool, dry_run: bool, wait: bool, timeout: float, output: str, client: Client
) -> int:
    """Create or change objects: all of them or, if one is not valid, none."""
    answer = client.apply(read_documents(files, recursive), dry_run)
    _print(answer["results"], dry_run, output)
    if wait and not dry_run:
        client.wait(answer["revision"], timeout)
    return 0


def _print(results: Sequence[dict[str, Any]], dry_run: bool, output: str) -> None:
    if output in ("json", "yaml"):
        whole = {"apiVersion": "v1", "kind": "List", "items": [item["after"] for item in results]}
        print(to_json(whole) if output == "json" else to_yaml(whole), end="")
        return
    note = " (dry run)" if dry_run else ""
    for item in results:
        name = f"{item['key']['kind'].lower()}/{item['key']['name']}"
        print(name if output == "name" else f"{name} {item['action']}{note}")
