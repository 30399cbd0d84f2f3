"""`fairway dns`: the process that starts DNS workers where they must outlive the agent's container."""

from __future__ import annotations

from pathlib import Path

import click

from fairway_cli.options import option

PROBE_SECONDS = 2.0


@click.command("dns")
@option("--config", metavar="FILE", default="/etc/fairway/fairway.yaml", show_default=True, help="Configuration of the node.")
@option("--probe", is_flag=True, help="Only tell whether the process runs and its workers live; exit code 1 if not.")
def command(config: str, probe: bool) -> int:
    """Start DNS workers for the agent, and keep them working while it is away (dns.supervisor: host)."""
    from fairway_agent.config import load_config
    from fairway_core.errors import UserError

    loaded = load_config(Path(config))
    if probe:
        return _probe(loaded.paths.worker_host)
    if not loaded.hosted_workers:
        raise UserError("dns.supervisor is agent: the agent starts its DNS workers itself")
    from fairway_core.logs import configure
    from fairway_dns.host import serve

    serve(loaded.paths.worker_host, configure(loaded.log.level).getChild("dns"))
    return 0


def _probe(path: Path) -> int:
    from fairway_dns.launch import ask_host

    try:
        state = ask_host(path, PROBE_SECONDS)
    except OSError as error:
        click.echo(f"{path}: {error}")
        return 1
    dead = sorted(name for name, lives in state["workers"].items() if not lives)
    click.echo(f"{len(state['workers'])} workers, not alive: {', '.join(dead) or 'none'}")
    return 1 if dead else 0
