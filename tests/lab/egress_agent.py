"""An agent whose egress rules know names, and a chain of the test that drops what these have not let through.

    python -m tests.lab.egress_agent CONFIG

Pods of namespace `shop` may connect to the addresses of names below `open.example`; all others that lie in `WORLD` are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from fairway_agent.assembly import Agent
from fairway_agent.config import load_config
from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.egress import EGRESS4, EGRESS6, EgressCompiler
from fairway_kernel.nft.objects import Chain, Elements, Layout

WORLD = {4: "198.18.0.0/15", 6: "2001:2::/48"}
SCOPE = 7
SLOW = 0.005


class OpenNames:
    """The egress rules."""

    def __init__(self) -> None:
        self._patterns: Mapping[int, frozenset[str]] = {SCOPE: frozenset({"*.open.example"})}

    def patterns(self) -> Mapping[int, frozenset[str]]:
        return self._patterns

    def scopes(self, pod: Key) -> frozenset[int]:
        return frozenset({SCOPE}) if pod.namespace == "shop" else frozenset()

    def take_changes(self) -> frozenset[Key]:
        return frozenset()


class DroppingCompiler(EgressCompiler):
    """With chains as a policy would have them, and as slow as on a busy node: what is told too early gets dropped."""

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        time.sleep(SLOW)
        return super().update(before, after, touched)

    @property
    def layout(self) -> Layout:
        ways = (("ip", WORLD[4], EGRESS4.name), ("ip6", WORLD[6], EGRESS6.name))
        judge = tuple(f"meta mark . {word} daddr @{name} meta mark set 0 return" for word, _, name in ways)
        enter = tuple(f"ct direction original {word} daddr {world} goto test_names" for word, world, _ in ways)
        hook = "type filter hook forward priority filter - 1; policy accept;"
        drop = 'counter drop comment "test-dropped"'
        return super().layout + Layout(
            chains=(Chain("test_names", (f"meta mark set {SCOPE}", *judge, drop)), Chain("test_forward", enter, hook))
        )


def main(config: str) -> None:
    logging.basicConfig(level=logging.INFO)
    rules = OpenNames()
    agent = Agent(load_config(Path(config)), logging.getLogger("fairway"), rules)
    agent._egress_rules = DroppingCompiler(rules)
    asyncio.run(agent.run(lambda: None))


if __name__ == "__main__":
    main(sys.argv[1])
