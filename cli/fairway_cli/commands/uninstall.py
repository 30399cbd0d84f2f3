"""`fairway uninstall`: remove what `fairway install` put in place, and on request what the agent left on the node."""

from __future__ import annotations

from pathlib import Path

import click

from fairway_cli.options import install_options, option


@click.command("uninstall")
@install_options
@option("--config", metavar="FILE", default="/etc/fairway/fairway.yaml", show_default=True, help="Configuration of the node.")
@option(
    "--purge", is_flag=True, help="Remove rules, links, routes, DNS workers and the state directory too; the agent is stopped."
)
@option("--force", is_flag=True, help="With --purge: also while containers are attached, which are cut off.")
def command(root: str, bin_dir: str, conf_dir: str, config: str, purge: bool, force: bool) -> int:
    """Remove the network list and the plugin, and bring back what stood there before. Repeating it changes nothing.

    What the agent leaves on the node serves on without it; --purge removes that as well, your objects included.
    """
    from fairway_cni.install import uninstall

    if force and not purge:
        raise click.UsageError("--force goes with --purge")
    lines = []
    if purge:
        import asyncio

        from fairway_agent.config import load_config
        from fairway_agent.purge import purge as remove_all
        from fairway_agent.purge import refuse_in_use

        settings = load_config(Path(config))
        refuse_in_use(settings, root, force)
        lines = uninstall(bin_dir, conf_dir, root)
        lines += asyncio.run(remove_all(settings, root))
    else:
        lines = uninstall(bin_dir, conf_dir, root)
    for line in lines:
        print(line)
    return 0
