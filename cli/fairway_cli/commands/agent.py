"""`fairway agent`: run the node's agent in the foreground."""

from __future__ import annotations

import click

from fairway_cli.options import option


@click.command("agent")
@option("--config", metavar="FILE", default="/etc/fairway/fairway.yaml", show_default=True, help="Configuration of the node.")
def command(config: str) -> int:
    """Run the node's agent until it is told to stop."""
    from fairway_agent.main import main

    return main(config)
