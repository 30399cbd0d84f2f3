"""Names follow the rules: each step's zone delta goes to the DNS workers once its rules are live."""

from __future__ import annotations

import asyncio

from fairway_agent.live import DNS, LiveRevisions
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.compile import ZoneCompiler
from fairway_dns.feed import ZoneFeed

ACK_SECONDS = 5.0


class Names:
    """Feeds the workers and tells which revision all of them answer from. Event-loop only."""

    def __init__(self, compiler: ZoneCompiler, feed: ZoneFeed, live: LiveRevisions, problems: Problems) -> None:
        self._compiler = compiler
        self._feed = feed
        self._live = live
        self._problems = problems
        self._published = asyncio.Event()
        self._revision = 0

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Publish what changed. The first step carries the whole world."""
        delta = self._compiler.update(before, after, touched)
        self._feed.publish(delta, after.revision)
        self._revision = after.revision
        self._published.set()

    async def run(self) -> None:
        """Track acknowledgements until cancelled."""
        while True:
            await self._published.wait()
            revision = self._revision
            if await self._feed.wait_acked(revision, ACK_SECONDS):
                self._live.advance(DNS, revision)
                self._problems.clear("dns")
            else:
                self._problems.report("dns", f"no DNS worker answers from revision {revision} yet")
                continue
            if revision == self._revision:
                self._published.clear()
