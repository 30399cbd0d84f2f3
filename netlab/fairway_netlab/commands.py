"""`fairway lab`: laboratories on the command line."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from fairway_core.errors import Place, UserError
from fairway_netlab.plan import DEFAULT_ROOT

SIGTERM_CODE = 128 + signal.SIGTERM

root_option = click.option(
    "--dir",
    "root",
    type=click.Path(path_type=Path),
    default=DEFAULT_ROOT,
    show_default=True,
    envvar="FAIRWAY_LAB_DIR",
    show_envvar=True,
    help="Where laboratories keep their files.",
)


@click.group("lab")
def command() -> None:
    """Build laboratories out of network namespaces; no container engine is needed."""


@command.command("up")
@click.argument("file", metavar="FILE|-")
@click.option("--quiet", "-q", is_flag=True, envvar="FAIRWAY_QUIET", show_envvar=True, help="Do not tell about progress.")
@root_option
def up_command(file: str, quiet: bool, root: Path) -> int:
    """Build the laboratory that FILE describes. If that fails or is interrupted, nothing is left."""
    from fairway_netlab.lab import up
    from fairway_netlab.topology import parse_topology

    topology = parse_topology(file if file != "-" else "<stdin>", _read(file))
    # Ctrl-C raises by itself; let SIGTERM unwind as well, so that what was made is removed before this process ends.
    signal.signal(signal.SIGTERM, _terminated)
    lab = up(topology, root, Path(file).parent, _quiet if quiet else _say)
    lab.keep()
    _say(f"laboratory {lab.name} is up")
    if lab.plan.nodes:
        _say(f"to speak to {lab.plan.nodes[0].name}: export FAIRWAY_AGENT={lab.plan.nodes[0].socket}")
    return 0


def _terminated(*_: Any) -> NoReturn:
    sys.exit(SIGTERM_CODE)


def _say(text: str) -> None:
    click.echo(text)


def _quiet(_: str) -> None:
    return


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(error.strerror or str(error), Place(file)) from error
    except UnicodeDecodeError as error:
        raise UserError("is not UTF-8 text", Place(file)) from error


@command.command("down")
@click.argument("name")
@root_option
def down_command(name: str, root: Path) -> int:
    """Remove a laboratory: processes, namespaces, files. One that is not there is no error."""
    from fairway_netlab.run import check_machine, down

    check_machine()
    removed = down(_plain(name), root)
    click.echo(f"laboratory {name} is down" if removed else f"there was no laboratory {name}")
    return 0


def _plain(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise UserError(f"{name!r} is not the name of a laboratory")
    return name


@command.command("list")
@root_option
def list_command(root: Path) -> int:
    """List laboratories with their nodes, containers and addresses."""
    from fairway_netlab.state import list_states

    for state in list_states(root):
        plan = state.plan
        click.echo(f"{plan.name}: nodes {', '.join(node.name for node in plan.nodes) or 'none'}")
        for station in plan.stations:
            addresses = state.addresses.get(station.title) or plan.addresses.get(station.name, ())
            where = f"on {station.node}" if station.node else "outside"
            click.echo(f"  {station.title} {where}: {', '.join(addresses) or 'no address'}")
    return 0


@command.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("name", metavar="LAB")
@click.argument("container")
@click.argument("arguments", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@root_option
def exec_command(name: str, container: str, arguments: tuple[str, ...], root: Path) -> NoReturn:
    """Run a command inside a container, host or node. The exit code is the command's."""
    from fairway_netlab.lab import attached_lab

    line = attached_lab(_plain(name), root).command(container, arguments)
    sys.stdout.flush()
    os.execvp(line[0], line)


@command.command("probe")
@click.argument("name", metavar="LAB")
@click.option("--port", type=click.IntRange(1, 65535), envvar="FAIRWAY_PORT", show_envvar=True, help="This port only.")
@click.option(
    "--timeout", type=float, default=1.0, show_default=True, envvar="FAIRWAY_TIMEOUT", show_envvar=True, help="Seconds."
)
@root_option
def probe_command(name: str, port: int | None, timeout: float, root: Path) -> int:
    """Try every served port from every container and host, and show who reaches whom."""
    from fairway_netlab.lab import attached_lab
    from fairway_netlab.matrix import Matrix, render

    lab = attached_lab(_plain(name), root)
    matrix = Matrix(lab)
    for source in lab.plan.stations:
        for target in lab.plan.stations:
            for serve in target.serve if source is not target else ():
                if port in (None, serve.port):
                    matrix.expect_some(source.title, target.title, serve.port, serve.protocol)
    click.echo(render(matrix.probe(timeout), judge=False))
    return 0
