"""The constant part of the service rules, word for word: a change of it is an upgrade of every node, so it must be meant."""

from __future__ import annotations

import re
from pathlib import Path

from fairway_kernel.nft.objects import INET
from fairway_kernel.nft.transaction import add_layout
from fairway_proxy.layout import CLASSES, service_layout

GOLDEN = Path(__file__).parent / "proxy_layout.nft"
# The chains of the other classes differ in their number alone, which the second test checks.
OTHER_CLASS = re.compile(r"(chain|rule) inet fairway lb_(?!1\b|1024\b)")


def text() -> str:
    return str(add_layout(service_layout(("10.244.0.0/24", "fd00:10:244::/64")), [INET]))


def test_the_layout_is_the_reviewed_one() -> None:
    lines = [line for line in text().splitlines(keepends=True) if not OTHER_CLASS.search(line)]
    assert "".join(lines) == GOLDEN.read_text()


def test_every_class_has_its_chain_and_verdict() -> None:
    layout = {chain.name: chain.rules for chain in service_layout(()).chains}
    for k in CLASSES:
        assert layout[f"lb_{k}"] == tuple(rule.replace("mod 1 ", f"mod {k} ") for rule in layout["lb_1"])
        assert f" {k} : goto lb_{k}," in layout["svc_pick"][-1]
    assert all(name in layout for rules in layout.values() for rule in rules for name in re.findall(r"(?:goto|jump) (\w+)", rule))
