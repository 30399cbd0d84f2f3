"""`fairway why`: the evaluator's verdict on a connection, with the policy and rule that decide it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, namespace_option, output_option
from fairway_cli.render import paint, to_json, to_yaml

RED, GREEN = 31, 32

# Name, address or [IPv6 address]; a bare IPv6 address cannot be told from a port and so takes none.
_DESTINATION = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[^/:]+)(?:/(?P<protocol>[A-Za-z]+))?)?")


@click.command("why")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST[:PORT[/PROTO]]")
@namespace_option
@output_option("text", "json", "yaml", envvar="FAIRWAY_WHY_OUTPUT")
@agent_option
def command(source: str, destination: str, namespace: str, output: str, client: Client) -> int:
    """Tell whether SRC may connect to DST, and why. Exit code 1 if it may not.

    SRC and DST are pods or services as NAMESPACE/NAME or NAME, or addresses; [fd00::1]:53/UDP names a port of an IPv6 address.
    """
    host, port, protocol = parse_destination(destination)
    answer = client.why(_qualified(source, namespace), _qualified(host, namespace), port, protocol)
    if output == "json":
        print(to_json(answer), end="")
    elif output == "yaml":
        print(to_yaml(answer), end="")
    else:
        _print(answer, source, destination)
    return 0 if answer.get("allowed") else 1


def parse_destination(text: str) -> tuple[str, int | None, str]:
    """Host, port and protocol of `DST[:PORT[/PROTO]]`. Raises UsageError."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None, "TCP"
    match = _DESTINATION.fullmatch(text)
    if match is None:
        raise click.UsageError(f"{text!r} is not DST[:PORT[/PROTO]]")
    port = match["port"]
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise click.UsageError(f"port {port!r} is not a number from 1 to 65535")
    return match["v6"] or match["host"], int(port) if port else None, (match["protocol"] or "TCP").upper()


def _qualified(name: str, namespace: str) -> str:
    """Put the namespace before a bare name; addresses stay as they are."""
    is_address = ":" in name or re.fullmatch(r"[0-9.]+", name)
    return name if is_address or "/" in name else f"{namespace}/{name}"


def _print(answer: Mapping[str, Any], source: str, destination: str) -> None:
    allowed = bool(answer.get("allowed"))
    summary, *reasons = answer.get("lines") or [f"{source} to {destination}: {'allowed' if allowed else 'denied'}"]
    print(paint(summary, GREEN if allowed else RED))
    for line in reasons:
        print(f"  {line}")
