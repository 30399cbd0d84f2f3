"""`fairway install`: put the CNI plugin and its network list where container runtimes look."""

from __future__ import annotations

from pathlib import Path

import click

from fairway_cli.options import install_options, option


@click.command("install")
@install_options
@option("--config", metavar="FILE", default="/etc/fairway/fairway.yaml", show_default=True, help="Configuration of the node.")
@option("--mode", type=click.Choice(["bridge", "routed"]), default="bridge", show_default=True, help="How containers are wired.")
@option("--keep-others", is_flag=True, help="Leave network lists alone whose names come before ours.")
def command(root: str, bin_dir: str, conf_dir: str, config: str, mode: str, keep_others: bool) -> int:
    """Put the plugin and the network list in place, the list last. Repeating it changes nothing.

    Runtimes use the network list whose name comes first; others that would win are set aside until `fairway uninstall`.
    """
    from fairway_agent.config import load_config
    from fairway_cni.install import NetworkSettings, install

    paths = load_config(Path(config)).paths
    settings = NetworkSettings(socket=str(paths.socket), spool_dir=str(paths.spool), mode=mode)
    for line in install(bin_dir, conf_dir, settings, root, keep_others):
        print(line)
    return 0
