"""The `fairway` command: finds the command asked for, and turns errors into one line and an exit code.

Promise: only the command that runs is imported. Exit codes (design): 0 ok, 1 a difference, a denial or a failed check,
2 usage or invalid input, 3 agent unreachable, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module

import click

from fairway_cli.client import AgentUnreachable
from fairway_cli.options import root_agent_option
from fairway_core.errors import FairwayError, UserError

OK, DIFFERENT, INVALID, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130

# Name -> where the command is and its line in the help, so that neither needs an import. `lab` lives beside this package,
# not below it; it is found by name only.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "agent": ("fairway_cli.commands.agent", "Run the node's agent."),
    "apply": ("fairway_cli.commands.apply", "Create or change objects."),
    "check": ("fairway_cli.commands.check", "Check what the node offers and what is installed."),
    "completion": ("fairway_cli.commands.completion", "Print the completion script of a shell."),
    "delete": ("fairway_cli.commands.delete", "Delete objects."),
    "describe": ("fairway_cli.commands.describe", "Show an object with what it relates to."),
    "diff": ("fairway_cli.commands.diff", "Show what apply would change."),
    "dns": ("fairway_cli.commands.dns", "Start DNS workers that outlive the agent's container."),
    "get": ("fairway_cli.commands.get", "List objects."),
    "install": ("fairway_cli.commands.install", "Put the CNI plugin and its network list in place."),
    "lab": ("fairway_netlab.commands", "Build laboratories out of network namespaces."),
    "resolve": ("fairway_cli.commands.resolve", "Tell what a name is answered with, and why."),
    "status": ("fairway_cli.commands.status", "Tell whether the node's network is what it should be."),
    "top": ("fairway_cli.commands.top", "Show what happens most, now."),
    "uninstall": ("fairway_cli.commands.uninstall", "Remove what install put in place."),
    "validate": ("fairway_cli.commands.validate", "Check files without an agent."),
    "version": ("fairway_cli.commands.version", "Print the version."),
    "why": ("fairway_cli.commands.why", "Explain whether a connection is allowed."),
}


class LazyGroup(click.Group):
    """A group whose commands are modules with an attribute `command`, imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, from the table alone."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list of `--help`, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@root_agent_option
def cli() -> None:
    """The network of a container node.

    Exit codes: 0 ok, 1 a difference, a denial or a failed check, 2 usage or invalid input, 3 agent unreachable.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises for what a user can cause."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone (`fairway get … | head`): nothing to say, and nothing left to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DIFFERENT


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return _invoke(arguments)
    except click.UsageError as error:
        hint = f" (see '{error.ctx.command_path} --help')" if error.ctx else ""
        return _complain(INVALID, f"{error.format_message()}{hint}")
    except click.ClickException as error:
        return _complain(INVALID, error.format_message())
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ExceptionGroup as group:
        return max(_report(error) for error in group.exceptions)
    except FairwayError as error:
        return _report(error)


def _invoke(arguments: Sequence[str] | None) -> int:
    if "_FAIRWAY_COMPLETE" in os.environ:
        return cli.main(arguments, prog_name="fairway", standalone_mode=False) or OK
    # Not `cli.main`, which prints an empty line for Ctrl-C and ends the process itself for a broken pipe.
    try:
        with cli.make_context("fairway", list(sys.argv[1:] if arguments is None else arguments)) as context:
            return cli.invoke(context) or OK
    except click.exceptions.Exit as end:
        return end.exit_code


def _report(error: Exception) -> int:
    if not isinstance(error, FairwayError):
        raise error
    # One error of the documents stands for several faults, each with a place of its own.
    for fault in getattr(error, "errors", (error,)):
        _complain(INVALID, str(fault))
    return INVALID if isinstance(error, UserError) else UNREACHABLE if isinstance(error, AgentUnreachable) else DIFFERENT


def _complain(code: int, text: str) -> int:
    print("error: " + text.replace("\n", "\n  "), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
