"""The table of behaviours names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "kubernetes-conformance.md"
NAMED = re.compile(r"`([a-z0-9_]+)\.([a-z0-9_]+)`")
SETTINGS = ("dns",)


def missing(text: str) -> list[str]:
    """What it names as a test and is none."""
    found = []
    for module, name in NAMED.findall(text):
        files = list((ROOT / "tests").glob(f"*/test_{module}.py"))
        if module not in SETTINGS and not any(f"def test_{name}(" in file.read_text() for file in files):
            found.append(f"{module}.{name}")
    return found


def test_every_test_named_is_there() -> None:
    text = TABLE.read_text()
    assert len(NAMED.findall(text)) > 40
    assert missing(text) == []


def test_a_name_nobody_has_is_noticed() -> None:
    assert missing("`kubernetes_services.no_such_test`, `dns.upstreams`") == ["kubernetes_services.no_such_test"]
