"""`fairway status`: is the network of this node what it should be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, output_option
from fairway_cli.render import paint, to_json, to_yaml

RED, GREEN, YELLOW = 31, 32, 33


@click.command("status")
@output_option("text", "json", "yaml", envvar="FAIRWAY_STATUS_OUTPUT")
@agent_option
def command(output: str, client: Client) -> int:
    """Show problems, the revision of the objects and the revision live in each part. Exit code 1 if not ready."""
    status = client.status()
    if output == "json":
        print(to_json(status), end="")
    elif output == "yaml":
        print(to_yaml(status), end="")
    else:
        _print(status)
    return 0 if status.get("ready") else 1


def _print(status: Mapping[str, Any]) -> None:
    revision = status.get("revision", 0)
    ready = paint("ready", GREEN) if status.get("ready") else paint("not ready", RED)
    print(f"node {status.get('node', '?')}: {ready} (fairway {status.get('version', '?')})")
    print(f"revision {revision}: " + ", ".join(_part(name, live, revision) for name, live in _live(status).items()))
    counts = ", ".join(f"{count} {kind}" for kind, count in (status.get("counts") or {}).items() if count)
    print(f"objects: {counts or 'none'}")
    _print_gaps((status.get("unenforced") or {}).get("counts") or {})
    for problem in status.get("problems") or ():
        print(f"{paint('problem', RED)}: {problem}")


def _print_gaps(counts: Mapping[str, int]) -> None:
    total = sum(counts.values())
    if total:
        kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        said = "1 object uses" if total == 1 else f"{total} objects use"
        print(f"{paint('note', YELLOW)}: {said} features that are not enforced: {kinds} (fairway get KIND -A -o wide)")


def _live(status: Mapping[str, Any]) -> Mapping[str, Any]:
    return status.get("live") or {"nothing": None}


def _part(name: str, live: Any, revision: int) -> str:
    if live == revision:
        return f"{name} live"
    return paint(f"{name} not live" if live is None else f"{name} at {live}", YELLOW)
