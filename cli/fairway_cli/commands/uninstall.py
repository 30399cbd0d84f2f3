"""`fairway uninstall`: remove what `fairway install` put in place."""

from __future__ import annotations

import click

from fairway_cli.options import install_options


@click.command("uninstall")
@install_options
def command(root: str, bin_dir: str, conf_dir: str) -> int:
    """Remove the network list and the plugin, and bring back what stood there before. Repeating it changes nothing."""
    from fairway_cni.install import uninstall

    for line in uninstall(bin_dir, conf_dir, root):
        print(line)
    return 0
