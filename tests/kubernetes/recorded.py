"""Recordings of a real API server (1.36): lists, pages, watches and refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RECORDINGS = Path(__file__).parent / "recordings"
PLURALS = ("namespaces", "nodes", "pods", "services", "endpointslices", "networkpolicies")


@dataclass(frozen=True)
class Answer:
    """One recorded answer."""

    status: int
    headers: dict[str, str]
    body: Any

    @property
    def raw(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


def answer(name: str) -> Answer:
    """The recording NAME.json."""
    document = json.loads((RECORDINGS / f"{name}.json").read_text())
    return Answer(document["status"], document["headers"], document["body"])


def watch_events(name: str) -> list[dict[str, Any]]:
    """The events of NAME.jsonl in order, bookmarks included."""
    lines = map(json.loads, (RECORDINGS / f"{name}.jsonl").read_text().splitlines())
    return [line["event"] for line in lines if "event" in line]


def scenario() -> list[tuple[str, dict[str, Any]]]:
    """The whole recorded scenario: every event with the plural of its kind, in the order of the server's versions."""
    found = [(plural, event) for plural in PLURALS for event in watch_events(f"watch-{plural}") if event["type"] != "BOOKMARK"]
    return sorted(found, key=lambda pair: int(pair[1]["object"]["metadata"]["resourceVersion"]))
