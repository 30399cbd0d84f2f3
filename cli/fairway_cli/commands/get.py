"""`fairway get`: list objects, once or as they change."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from fairway_cli.client import Client
from fairway_cli.ipam import IPAM, show_ipam
from fairway_cli.options import FORMATS, agent_option, kind_argument, namespace_option, option, output_option
from fairway_cli.render import print_documents, print_names, table_for, to_yaml
from fairway_core.errors import NotFoundError
from fairway_core.keys import Key, Kind


@click.command("get")
@kind_argument(IPAM)
@click.argument("names", metavar="[NAME]...", nargs=-1)
@namespace_option
@option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@option("-l", "--selector", default="", metavar="SEL", help="Label selector: k=v, k!=v, k in (a,b), k, !k; comma means and.")
@output_option(*FORMATS)
@option("-w", "--watch", is_flag=True, help="Go on with every change, until interrupted.")
@agent_option
def command(
    kind: Kind | None,
    names: tuple[str, ...],
    namespace: str,
    all_namespaces: bool,
    selector: str,
    output: str,
    watch: bool,
    client: Client,
) -> int:
    """List objects of KIND, or those named.

    KIND is a name, plural or short form: pods, po, Service, svc, netpol, … or ipam: the node's addresses.
    """
    if kind is None:
        raise click.UsageError("KIND is missing; known kinds: " + ", ".join(known_kinds()))
    if names and (selector or all_namespaces):
        raise click.UsageError("a NAME cannot be combined with -A or -l")
    if kind is IPAM:
        show_ipam(client, output)
        return 0
    scope = "" if all_namespaces or not kind.namespaced else namespace
    if watch:
        return _watch(client, kind, scope, names, selector, output)
    if names:
        documents, missing = _named(client, kind, scope, names)
        if documents:
            print_documents(documents, kind, output, single=len(names) == 1, all_namespaces=False)
        return _report_missing(missing)
    documents = client.list(kind.plural, scope, selector)
    if not documents and output in ("table", "wide"):
        click.echo("No objects found." if not scope else f"No objects found in namespace {scope}.", err=True)
        return 0
    print_documents(documents, kind, output, single=False, all_namespaces=not scope)
    return 0


def known_kinds() -> list[str]:
    """The plurals of all kinds."""
    from fairway_core.keys import KINDS

    return [kind.plural for kind in KINDS]


def _named(client: Client, kind: Kind, scope: str, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], list[NotFoundError]]:
    documents, missing = [], []
    for name in names:
        try:
            documents.append(client.get(kind.plural, scope, name))
        except NotFoundError as error:
            missing.append(error)
    return documents, missing


def _report_missing(missing: list[NotFoundError]) -> int:
    if missing:
        raise ExceptionGroup("missing", missing)
    return 0


def _watch(client: Client, kind: Kind, scope: str, names: tuple[str, ...], selector: str, output: str) -> int:
    """The list, then each change. Rows of deleted objects are shown a last time, as kubectl does."""
    known: dict[Key, dict[str, Any]] = {}
    show = table_for(kind, output, not scope) if output in ("table", "wide") else None
    synced = False
    for event in client.watch(kind.plural, scope, selector):
        if event["type"] == "SYNC":
            if show and not synced and known:
                show(list(known.values()))
                sys.stdout.flush()
            synced = True
            continue
        key = _key(kind, event)
        if names and key.name not in names:
            continue
        document = event["document"] if event["type"] == "PUT" else known.get(key)
        if event["type"] == "PUT":
            known[key] = event["document"]
        else:
            known.pop(key, None)
        if show is None:
            _print_event(event, document, kind, output)
        elif synced and document:
            show([document])
            sys.stdout.flush()
    return 0


def _key(kind: Kind, event: dict[str, Any]) -> Key:
    place = event["document"]["metadata"] if event["type"] == "PUT" else event["key"]
    return Key(kind.name, place.get("namespace") or "", place["name"])


def _print_event(event: dict[str, Any], document: dict[str, Any] | None, kind: Kind, output: str) -> None:
    if output == "json":
        print(json.dumps(event, ensure_ascii=False), flush=True)
    elif output == "yaml":
        print("---\n" + to_yaml(event), end="", flush=True)
    elif document:
        print_names([document], kind)
        sys.stdout.flush()
