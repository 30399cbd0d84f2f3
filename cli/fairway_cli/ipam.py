"""`fairway get ipam`: the node's address ranges and who holds what of them."""

from __future__ import annotations

from typing import Any

from fairway_cli.client import Client
from fairway_cli.render import to_json, to_yaml
from fairway_cli.table import Table
from fairway_core.keys import Kind

IPAM = Kind("AddressRange", "fairway.dev/v1", "ipam", namespaced=False)
"""Not stored: the agent derives it from attachments."""


def show_ipam(client: Client, output: str) -> None:
    """Print the ranges in the format `output`; `wide` lists every address with its holder."""
    ranges: list[dict[str, Any]] = client.ipam()["ranges"]
    if output in ("json", "yaml"):
        print((to_json if output == "json" else to_yaml)({"ranges": ranges}), end="")
    elif output == "name":
        for item in ranges:
            print(f"ipam/{item['range']}")
    elif output == "wide":
        rows = ((item["range"], holder["ip"], holder["owner"]) for item in ranges for holder in item["holders"])
        Table(("RANGE", "ADDRESS", "HOLDER"), print).rows(rows)
    else:
        Table(("RANGE", "USED", "FREE", "SIZE"), print).rows(map(_row, ranges))


def _row(item: dict[str, Any]) -> tuple[str, ...]:
    return item["range"], str(item["used"]), str(item["size"] - item["used"]), str(item["size"])
