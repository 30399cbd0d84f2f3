"""Names follow the rules: each step's zone delta goes to the DNS workers once its rules are live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from fairway_agent.live import DNS, LiveRevisions
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.compile import ZoneCompiler
from fairway_dns.feed import ZoneFeed
from fairway_dns.viewcompile import ViewCompiler
from fairway_dns.zone import ZoneDelta

ACK_SECONDS = 5.0
SMALL = 32
BOUNDED = frozenset({"Attachment", "EndpointSlice", "Pod", "Service"})
"""Kinds of which one object never concerns many names: up to `SMALL` of them take some milliseconds together."""

Call = Callable[[Callable[[], ZoneDelta]], asyncio.Future[ZoneDelta]]


class Names:
    """Feeds the workers and tells which revision all of them answer from. Event-loop only.

    Names and who may see them travel together, so that a revision is live in both at once. What may take long, the first step
    above all, is compiled in another thread.
    """

    def __init__(
        self,
        compiler: ZoneCompiler,
        views: ViewCompiler,
        feed: ZoneFeed,
        live: LiveRevisions,
        problems: Problems,
        call: Call,
    ) -> None:
        """`views` may ask the policy compiler: it is called while no step is being worked on, with the rules of `after` live.
        `call` calls a function in another thread, one after the other and before the next step.
        """
        self._compiler = compiler
        self._call = call
        self._compiling = 0
        self._error: BaseException | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._views = views
        self._feed = feed
        self._live = live
        self._problems = problems
        self._published = asyncio.Event()
        self._revision = 0
        self._disputed: set[str] = set()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """Publish what changed, now or soon. The first step carries the whole world."""
        compiled = partial(self._compile, before, after, touched)
        if not self._compiling and len(touched) <= SMALL and all(key.kind in BOUNDED for key in touched):
            self._publish(compiled(), after, touched)
            return
        self._compiling += 1
        self._idle.clear()
        self._call(compiled).add_done_callback(partial(self._compiled, after, touched))

    def _compile(self, before: World, after: World, touched: frozenset[Key]) -> ZoneDelta:
        delta = self._compiler.update(before, after, touched)
        return replace(delta, views=self._views.update(before, after, touched))

    def _compiled(self, after: World, touched: frozenset[Key], job: asyncio.Future[ZoneDelta]) -> None:
        self._compiling -= 1
        if not job.cancelled():
            self._error = self._error or job.exception()
        if self._error is not None:
            self._published.set()
        elif not job.cancelled():
            self._publish(job.result(), after, touched)
        if not self._compiling:
            self._idle.set()

    async def told(self) -> None:
        """Wait until the workers are told of all that this was told so far."""
        await self._idle.wait()

    def _publish(self, delta: ZoneDelta, after: World, touched: frozenset[Key]) -> None:
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
        """Track acknowledgements until cancelled. Raises what went wrong in the other thread."""
        while True:
            await self._published.wait()
            if self._error is not None:
                raise self._error
            revision = self._revision
            if await self._feed.wait_acked(revision, ACK_SECONDS):
                self._live.advance(DNS, revision)
                self._problems.clear("dns")
            else:
                self._problems.report("dns", f"no DNS worker answers from revision {revision} yet")
                continue
            if revision == self._revision:
                self._published.clear()
