"""`fairway check`: can this node run Fairway, and is everything in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, install_options, option, output_option
from fairway_cli.render import paint, to_json, to_yaml

COLOURS = {"ok": 32, "warn": 33, "fail": 31}


@click.command("check")
@install_options
@option("--config", metavar="FILE", default="/etc/fairway/fairway.yaml", show_default=True, help="Configuration of the node.")
@output_option("text", "json", "yaml", envvar="FAIRWAY_CHECK_OUTPUT")
@agent_option
@click.pass_context
def command(context: click.Context, root: str, bin_dir: str, conf_dir: str, config: str, output: str, client: Client) -> int:
    """Check what the node offers and what is installed, each with its remedy. Exit code 1 if something fails.

    Changes nothing: kernel features are tried in throw-away network namespaces. Without --agent, the agent of the configuration
    is asked.
    """
    from fairway_agent.config import load_config
    from fairway_cli.nodecheck import FAIL, Place, examine

    loaded = load_config(Path(config))
    chosen = context.get_parameter_source("client") is not click.core.ParameterSource.DEFAULT or context.obj
    place = Place(loaded, root, bin_dir, conf_dir, client if chosen else Client(str(loaded.paths.socket)))
    findings = [asdict(finding) for finding in examine(place)]
    failed = sum(finding["state"] == FAIL for finding in findings)
    if output == "text":
        _print(findings)
        print(f"{len(findings)} checks, {failed} failed" if failed else f"{len(findings)} checks, none failed")
    else:
        body: Mapping[str, Any] = {"ok": not failed, "checks": findings}
        print(to_json(body) if output == "json" else to_yaml(body), end="")
    return 1 if failed else 0


def _print(findings: Sequence[Mapping[str, str]]) -> None:
    width = max(len(finding["subject"]) for finding in findings)
    for finding in findings:
        state = paint(f"{finding['state']:<4}", COLOURS[finding["state"]])
        print(f"{state}  {finding['subject']:<{width}}  {finding['found']}")
        if finding["remedy"]:
            print(f"      {'':<{width}}  remedy: {finding['remedy']}")
