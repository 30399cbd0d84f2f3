"""`fairway top`: what happens most, now."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, option, output_option
from fairway_cli.render import to_json
from fairway_cli.table import Table

INTERVAL = 2.0
CLEAR = "\x1b[H\x1b[2J"
TITLES = {"pod": "POD", "name": "NAME", "zone": "ZONE"}


@click.group("top")
def command() -> None:
    """Show what happens most."""


@command.command("dns")
@option("-n", "--count", type=click.IntRange(1, 200), default=20, show_default=True, help="Rows.")
@option("--by", type=click.Choice(tuple(TITLES)), default=None, help="Sum up by one of them.")
@option("-w", "--watch", is_flag=True, help="Show it every two seconds, until interrupted.")
@output_option("table", "json", envvar="FAIRWAY_TOP_OUTPUT")
@agent_option
def dns(count: int, by: str | None, watch: bool, output: str, client: Client) -> None:
    """Show who asks for which names, how often per second, over the last seconds.

    The DNS workers count while somebody looks: from a sample of one query per batch, so under load rates are estimates.
    """
    while True:
        told = client.dns_top(by or "", count)
        if output == "json":
            print(to_json(told), end="")
        else:
            _print(told, by or "", CLEAR if watch and sys.stdout.isatty() else "")
        sys.stdout.flush()
        if not watch:
            return
        time.sleep(INTERVAL)


def _print(told: Mapping[str, Any], by: str, before: str) -> None:
    print(f"{before}{told['qps']:g} queries/s over {told['seconds']:g} s")
    columns = [("name" if by == "zone" else by, TITLES[by])] if by else [("pod", "POD"), ("name", "NAME"), ("type", "TYPE")]
    rows = ([*(row[field] or "." for field, _ in columns), f"{row['rate']:.1f}", f"{row['share']:.1%}"] for row in told["rows"])
    Table([*(title for _, title in columns), "RATE", "SHARE"], print).rows(rows)
