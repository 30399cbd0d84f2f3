"""Names follow the rules: each step's zone delta goes to the DNS workers once its rules are live."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from fairway_agent.live import DNS, LiveRevisions
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.compile import ZoneCompiler
from fairway_dns.feed import ZoneFeed
from fairway_dns.viewcompile import ViewCompiler

ACK_SECONDS = 5.0


class Names:
    """Feeds the workers and tells which revision all of them answer from. Event-loop only.

    Names and who may see them travel together, so that a revision is live in both at once.
    """

    def __init__(
        self, compiler: ZoneCompiler, views: ViewCompiler, feed: ZoneFeed, live: LiveRevisions, problems: Problems
    ) -> None:
        """`views` may ask the policy compiler: it is called while no step is being worked on, with the rules of `after` live."""
        self._compiler = compiler
        self._views = views
        self._feed = feed
        self._live = live
        self._problems = problems
        self._published = asyncio.Event()
        self._revision = 0
        self._disputed: set[str] = set()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Publish what changed. The first step carries the whole world."""
        delta = self._compiler.update(before, after, touched)
        delta = replace(delta, views=self._views.update(before, after, touched))
        self._feed.publish(delta, after.revision)
        self._revision = after.revision
        self._published.set()
        if any(key.kind in ("Tenant", "Namespace") for key in touched):
            self._tell_disputes(after)

    def _tell_disputes(self, world: World) -> None:
        """Namespaces with several tenants: refused at apply, but objects also come from elsewhere."""
        disputes = world.disputed_namespaces()
        for namespace in self._disputed - disputes.keys():
            self._problems.clear(f"tenants:{namespace}")
        for namespace, names in disputes.items():
            text = f"namespace {namespace} is claimed by tenants {', '.join(names)}: {names[0]} has it"
            self._problems.report(f"tenants:{namespace}", text, blocking=False)
        self._disputed = set(disputes)

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
