"""Answers of DNS feed egress rules: an address is let through in the kernel before anybody hears it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from fairway_agent.problems import Problems
from fairway_core.clock import Clock
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.egress import EgressCompiler
from fairway_dns.learned import Found, Learned
from fairway_dns.names import to_key
from fairway_dns.watch import EgressRules, Watch

Answer = Callable[[float], None]
Place = tuple[int, str]
"""(scope, address)"""
PROBLEM = "egress-names"
UNKNOWN = ""
"""In the place of a name: which one an address belongs to that an earlier agent let through."""


class EgressNames(Protocol):
    """Lets addresses through."""

    def learn(self, learned: Learned, answer: Answer) -> None:
        """Call `answer` once: with the seconds for which all of the addresses are let through from now on, as soon as the kernel
        has them; with 0 if they are not.
        """


@dataclass(frozen=True, slots=True)
class EgressLimits:
    """Seconds: an address stays for its TTL, of which `ttl` count at most, and `grace` more, since programs use addresses for
    longer than they may. One found in the kernel at the start stays as long as any could. Every `sweep` seconds what is over
    goes, and what could not be done is tried again. At most `places` addresses, `per_scope` of one scope; `waiting` questions.
    """

    ttl: int = 3600
    grace: float = 60.0
    sweep: float = 5.0
    places: int = 65_536
    per_scope: int = 8192
    waiting: int = 4096


@dataclass(slots=True)
class _Held:
    """One address of one scope: the names it belongs to with the monotonic time until which each needs it."""

    names: dict[str, float] = field(default_factory=dict)
    live: bool = False

    @property
    def until(self) -> float:
        return max(self.names.values(), default=0.0)


@dataclass(frozen=True, slots=True)
class _Waiting:
    places: tuple[Place, ...]
    seconds: float
    answer: Answer


class LearnedAddresses:
    """`EgressNames` over the node's nftables. Event-loop only.

    Promise: what is answered has been committed before; nothing is let through that no pattern asks for, and only as long as it
    may be used. Nothing is kept elsewhere than in the kernel: a new agent goes on with what it finds there.
    """

    def __init__(
        self,
        rules: EgressRules,
        elements: EgressCompiler,
        commit: Callable[[], Awaitable[None]],
        clock: Clock,
        problems: Problems,
        limits: EgressLimits | None = None,
    ) -> None:
        """`commit` brings what `elements` was told into the kernel, or raises KernelError."""
        self._rules = rules
        self._elements = elements
        self._commit = commit
        self._clock = clock
        self._problems = problems
        self._limits = limits or EgressLimits()
        self._patterns: Mapping[int, frozenset[str]] = {}
        self._watches: dict[int, Watch] = {}
        self._held: dict[Place, _Held] = {}
        self._per_scope: Counter[int] = Counter()
        self._waiting: list[_Waiting] = []
        self._dirty = False
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._held)

    def learn(self, learned: Learned, answer: Answer) -> None:
        """See `EgressNames`."""
        found = learned.found
        self._take_patterns()
        wanted = self._wanted(found)
        if not wanted or not self._fits(wanted):
            answer(0.0)
            return
        seconds = min(max(found.ttl, 0), self._limits.ttl) + self._limits.grace
        for place, names in wanted.items():
            self._hold(place, names, self._clock.monotonic() + seconds)
        if all(self._held[place].live for place in wanted):
            answer(seconds)
            return
        self._waiting.append(_Waiting(tuple(wanted), seconds, answer))
        self._wake.set()

    def follow(self, before: World, after: World, touched: frozenset[Key]) -> None:
        """See `Subscriber`: other patterns may take rights away."""
        self._take_patterns()

    async def run(self) -> None:
        """Until cancelled. To be started when the first state is live."""
        self._adopt()
        while True:
            self._wake.clear()
            self._sweep()
            if self._waiting or self._dirty:
                await self._carry_out()
            try:
                async with asyncio.timeout(self._limits.sweep):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _carry_out(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._dirty = False
        try:
            await self._commit()
        except KernelError as error:
            self._dirty = True
            self._problems.report(PROBLEM, f"addresses of allowed names are not let through: {error}", blocking=False)
            for item in waiting:
                item.answer(0.0)
            return
        self._problems.clear(PROBLEM)
        for item in waiting:
            item.answer(self._went(item))

    def _went(self, item: _Waiting) -> float:
        """Mark as live what was committed; for how long it is, if nothing was taken away meanwhile."""
        held = [self._held.get(place) for place in item.places]
        for found in held:
            if found is not None:
                found.live = True
        return item.seconds if all(held) else 0.0

    def _wanted(self, found: Found) -> dict[Place, list[str]]:
        """The addresses with the names that they are let through for; nothing if a scope does not ask for any of the names."""
        keys = {name: to_key(name) for name in found.names}
        names = {scope: [name for name, key in keys.items() if self._asks(scope, key)] for scope in found.scopes}
        if not all(names.values()):
            return {}
        return {(scope, address): names[scope] for scope in found.scopes for address in found.addresses}

    def _asks(self, scope: int, name: bytes) -> bool:
        watch = self._watches.get(scope)
        return watch is not None and bool(watch.scopes(name))

    def _fits(self, wanted: Mapping[Place, object]) -> bool:
        new = Counter(scope for scope, address in wanted if (scope, address) not in self._held)
        limits = self._limits
        over = [scope for scope, count in new.items() if self._per_scope[scope] + count > limits.per_scope]
        if over or len(self._held) + new.total() > limits.places:
            text = f"too many addresses of allowed names: {len(self._held)}" + (f", in scope {over[0]}" if over else "")
            self._problems.report(PROBLEM, text, blocking=False)
            return False
        return len(self._waiting) < limits.waiting

    def _hold(self, place: Place, names: Iterable[str], until: float) -> None:
        held = self._held.get(place)
        if held is None:
            held = self._held[place] = _Held()
            self._per_scope[place[0]] += 1
            self._elements.put(*place, True)
        for name in names:
            held.names[name] = max(until, held.names.get(name, 0.0))

    def _drop(self, place: Place) -> None:
        del self._held[place]
        self._per_scope[place[0]] -= 1
        self._elements.put(*place, False)
        self._dirty = True

    def _adopt(self) -> None:
        until = self._clock.monotonic() + self._limits.ttl + self._limits.grace
        for place in self._elements.adopted:
            self._hold(place, (UNKNOWN,), until)
            self._held[place].live = True

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for place in [place for place, held in self._held.items() if held.until <= now]:
            self._drop(place)

    def _take_patterns(self) -> None:
        patterns = self._rules.patterns()
        if patterns is self._patterns:
            return
        self._patterns = patterns
        self._watches = {scope: Watch.of((scope, one) for one in some) for scope, some in patterns.items() if some}
        for place, held in list(self._held.items()):
            held.names = {name: until for name, until in held.names.items() if self._still(place[0], name)}
            if not held.names:
                self._drop(place)
                self._wake.set()

    def _still(self, scope: int, name: str) -> bool:
        return scope in self._watches if name == UNKNOWN else self._asks(scope, to_key(name))
