"""`fairway completion`: the script that gives a shell completion of commands, flags and kinds."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> int:
    """Print the completion script of SHELL, for example: source <(fairway completion bash)."""
    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    print(found(context.find_root().command, {}, "fairway", "_FAIRWAY_COMPLETE").source())
    return 0
