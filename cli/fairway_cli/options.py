"""Options that several commands share, and the rule that every one has an environment variable `FAIRWAY_<NAME>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from fairway_cli.client import Client
from fairway_core.errors import UserError
from fairway_core.keys import KINDS, Kind, kind_named

F = TypeVar("F", bound=Callable[..., Any])
DEFAULT_SOCKET = "/run/fairway/agent.sock"
FORMATS = ("table", "wide", "json", "yaml", "name")


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """`click.option` with the environment variable its long name implies, shown in the help."""
    long = next(name for name in names if name.startswith("--")).split("/")[0]
    settings.setdefault("envvar", "FAIRWAY_" + long.strip("-").replace("-", "_").upper())
    return click.option(*names, show_envvar=True, **settings)


def root_agent_option(function: F) -> F:
    """`fairway --agent SOCKET …`: the default of the commands' own `--agent`."""

    def remember(context: click.Context, _: click.Parameter, value: str | None) -> None:
        context.obj = value

    return option("--agent", metavar="SOCKET", expose_value=False, callback=remember, help="Socket of the agent to ask.")(
        function
    )


def agent_option(function: F) -> F:
    """`--agent SOCKET`, handed to the command as `client`."""

    def connect(context: click.Context, parameter: click.Parameter, value: str) -> Client:
        explicit = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        return Client(value if explicit or not context.obj else context.obj)

    settings = {"default": DEFAULT_SOCKET, "show_default": True, "callback": connect, "help": "Socket of the agent to ask."}
    return option("--agent", "client", metavar="SOCKET", **settings)(function)


def namespace_option(function: F) -> F:
    """`-n NAMESPACE`."""
    return option("-n", "--namespace", default="default", show_default=True, help="Namespace of the objects.")(function)


def output_option(*formats: str, envvar: str = "FAIRWAY_OUTPUT") -> Callable[[F], F]:
    """`-o FORMAT`, handed to the command as `output`; the first format is the default.

    Commands with formats of their own pass a variable of their own, so that FAIRWAY_OUTPUT=wide does not break them.
    """
    choice = click.Choice(formats)
    text = "Output format."
    return option("-o", "--output", type=choice, default=formats[0], show_default=True, envvar=envvar, help=text)


def files_option(required: bool) -> Callable[[F], F]:
    """`-f FILE|DIR|-`, repeatable, and `-R`; handed to the command as `files` and `recursive`."""
    text = "File, directory (its *.yaml, *.yml, *.json) or - for standard input; may be repeated."

    def decorate(function: F) -> F:
        function = option("-R", "--recursive", is_flag=True, help="Descend into directories.")(function)
        return option("-f", "--filename", "files", multiple=True, required=required, metavar="FILE|DIR|-", help=text)(function)

    return decorate


def install_options(function: F) -> F:
    """`--root`, `--bin-dir` and `--conf-dir`."""
    function = option("--root", default="/", show_default=True, metavar="DIR", help="Prefix of both directories.")(function)
    function = option("--bin-dir", default="/opt/cni/bin", show_default=True, metavar="DIR", help="For the plugin.")(function)
    return option("--conf-dir", default="/etc/cni/net.d", show_default=True, metavar="DIR", help="For the list.")(function)


def kind_argument(*more: Kind) -> Callable[[F], F]:
    """KIND, by any of its names or one of `more` by its plural; handed to the command as `kind` of type Kind."""
    special = {kind.plural: kind for kind in more}

    def convert(context: click.Context, _: click.Parameter, value: str | None) -> Kind | None:
        try:
            return None if value is None or context.resilient_parsing else special.get(value.lower()) or kind_named(value)
        except UserError as error:
            raise click.UsageError(error.message, context) from error

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
        return [kind.plural for kind in (*KINDS, *more) if kind.plural.startswith(incomplete)]

    return click.argument("kind", metavar="KIND", required=False, callback=convert, shell_complete=complete)
