"""`fairway version`."""

from __future__ import annotations

import click


@click.command("version")
def command() -> int:
    """Print the version of this command."""
    from importlib.metadata import version

    print(f"fairway {version('fairway')}")
    return 0
