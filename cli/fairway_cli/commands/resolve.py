"""`fairway resolve`: what a name is answered with, and where that comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.options import agent_option, namespace_option, option, output_option
from fairway_cli.render import paint, to_json, to_yaml

RED, GREEN = 31, 32
ANSWERED = ("NOERROR", "")
STATES = {"exists": "exists", "hidden": "hidden", "absent": "does not exist", "foreign": "is asked of other servers"}


@click.command("resolve")
@click.argument("name", metavar="NAME")
@option("--type", "rtype", default="A", show_default=True, metavar="TYPE", help="Record type: A, AAAA, SRV, PTR, …")
@option("--from", "source", default="", metavar="[NS/]POD", help="Answer as this pod would get it, search path included.")
@option("--ask", is_flag=True, help="Ask a worker too, from the pod's own network namespace.")
@namespace_option
@output_option("text", "json", "yaml", envvar="FAIRWAY_RESOLVE_OUTPUT")
@agent_option
def command(name: str, rtype: str, source: str, ask: bool, namespace: str, output: str, client: Client) -> int:
    """Tell what NAME is answered with and where the answer comes from. Exit code 1 if there is none.

    Without --ask nothing is sent: the agent answers from the table the DNS workers have. What only upstreams know needs --ask.
    """
    qualified = source if not source or "/" in source else f"{namespace}/{source}"
    told = client.resolve(name, rtype.upper(), qualified, ask)
    if output == "text":
        _print(told)
    else:
        print((to_json if output == "json" else to_yaml)(told), end="")
    rcode = told["asked"]["rcode"] or "TIMEOUT" if "asked" in told else told["rcode"]
    return 0 if rcode in ANSWERED else 1


def _print(told: Mapping[str, Any]) -> None:
    rcode = told["rcode"]
    state = rcode or "not known here"
    print(paint(f"{told['name']} {told['type']} for {told['client']}: {state}", GREEN if rcode in ANSWERED else RED))
    for record in told["records"]:
        print(f"  {record}")
    print(f"rule: {told['rule']}")
    for text in (*told["reasons"], *told["objects"]):
        print(f"  {text}")
    if len(told["steps"]) > 1 or told["rule"] == "hidden":
        print("search path:")
        for step in told["steps"]:
            print(f"  {step['name']}: {STATES[step['state']]}{step['reason'] and ': '}{step['reason']}")
    if told["servers"]:
        print(f"  servers: {', '.join(told['servers'])}")
    if "asked" in told:
        _print_asked(told["asked"])


def _print_asked(asked: Mapping[str, Any]) -> None:
    print(f"asked {asked['server']}: {asked['rcode'] or 'no answer'} after {asked['ms']:g} ms")
    for record in asked["records"]:
        print(f"  {record}")
