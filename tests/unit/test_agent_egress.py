"""Addresses of allowed names: committed before they are told, kept as long as needed, taken away with the pattern."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from fairway_agent.egress import EgressLimits, LearnedAddresses
from fairway_agent.problems import Problems
from fairway_core.clock import FakeClock
from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_dns.egress import EgressCompiler
from fairway_dns.learned import Found, Learned
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.tables import NftTables

LOG = logging.getLogger("test-egress")
WORLD = World()


class Rules:
    """Patterns by scope, as a test says them."""

    def __init__(self, patterns: Mapping[int, frozenset[str]]) -> None:
        self.now = patterns

    def patterns(self) -> Mapping[int, frozenset[str]]:
        return self.now

    def scopes(self, pod: Key) -> frozenset[int]:
        return frozenset(self.now)

    def take_changes(self) -> frozenset[Key]:
        return frozenset()


class Bench:
    """The book, its compiler and tables over a kernel that behaves."""

    def __init__(self, runner: FakeRunner | None = None, limits: EgressLimits | None = None) -> None:
        self.rules = Rules({7: frozenset({"*.example"}), 8: frozenset({"api.example"})})
        self.runner, self.clock, self.problems = runner or FakeRunner(), FakeClock(), Problems(LOG)
        self.compiler = EgressCompiler(self.rules)
        self.tables = NftTables(self.runner, self.compiler.layout, LOG)
        self.fails = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.answers: dict[int, float] = {}
        parts = self.rules, self.compiler, self.commit, self.clock, self.problems
        self.book = LearnedAddresses(*parts, limits or EgressLimits(sweep=0.01))

    def start(self) -> None:
        self.compiler.learn(self.tables.adopt())
        self.step()

    def step(self) -> None:
        for owner, elements in self.compiler.update(WORLD, WORLD, frozenset()).items():
            self.tables.declare(owner, elements)
        self.tables.commit()

    async def commit(self) -> None:
        await self.gate.wait()
        if self.fails:
            self.fails -= 1
            raise KernelError(errno.ENOMEM, "nft transaction")
        self.step()

    @property
    def kernel(self) -> set[tuple[object, ...]]:
        """What the kernel lets through."""
        found = NftTables(self.runner, self.compiler.layout, LOG).adopt()
        return {slot.key for slot in found}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        self.start()
        task = asyncio.create_task(self.book.run())
        await asyncio.sleep(0)
        try:
            yield self
            assert not task.done()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def learn(
        self, ticket: int, *addresses: str, name: str = "api.example", scopes: tuple[int, ...] = (7,), ttl: int = 5
    ) -> None:
        def answer(seconds: float) -> None:
            assert ticket not in self.answers, "answered twice"
            if seconds:
                wanted = {(scope, address) for scope in scopes for address in addresses}
                assert wanted <= self.kernel, "told before it was let through"
            self.answers[ticket] = seconds

        self.book.learn(Learned(ticket, Found(scopes, (name,), addresses, ttl)), answer)

    async def answer(self, ticket: int) -> float:
        async with asyncio.timeout(5):
            while ticket not in self.answers:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return self.answers[ticket]


async def test_nothing_is_told_before_the_kernel_has_it() -> None:
    async with Bench().running() as bench:
        bench.learn(1, "192.0.2.1", "2001:db8::1", scopes=(7, 8))
        assert not bench.answers
        assert await bench.answer(1) == 65.0
        assert bench.kernel == {(scope, address) for scope in (7, 8) for address in ("192.0.2.1", "2001:db8::1")}
        bench.learn(2, "192.0.2.1", ttl=100)
        assert bench.answers[2] == 160.0, "what is there already is told at once"


async def test_all_that_comes_during_a_commit_goes_with_the_next() -> None:
    async with Bench().running() as bench:
        bench.gate.clear()
        bench.learn(0, "192.0.2.0")
        await asyncio.sleep(0.01)
        commits = len(bench.runner.transactions)
        for number in range(1, 200):
            bench.learn(number, f"192.0.2.{number}")
        bench.gate.set()
        assert all([await bench.answer(number) for number in range(200)])
        assert len(bench.runner.transactions) - commits <= 2


async def test_an_address_goes_when_nobody_may_use_it_any_more() -> None:
    async with Bench().running() as bench:
        bench.learn(1, "192.0.2.1")
        bench.learn(2, "192.0.2.2", ttl=1 << 31)
        await bench.answer(2)
        bench.clock.advance(64)
        bench.learn(3, "192.0.2.1", name="other.example")
        bench.clock.advance(2)
        await asyncio.sleep(0.05)
        assert bench.kernel == {(7, "192.0.2.1"), (7, "192.0.2.2")}, "the later name counts"
        bench.clock.advance(64)
        await until(lambda: bench.kernel == {(7, "192.0.2.2")})
        bench.clock.advance(3600)
        await until(lambda: not bench.kernel)
        assert len(bench.book) == 0


async def test_what_no_pattern_asks_for_is_refused_and_goes_with_its_pattern() -> None:
    async with Bench().running() as bench:
        for ticket, (name, scopes) in enumerate((("example", (7,)), ("x.example", (7, 8)), ("api.example", (9,)), ("a.b", ()))):
            bench.learn(ticket, "192.0.2.1", name=name, scopes=scopes)
            assert bench.answers[ticket] == 0
        bench.learn(10, "192.0.2.1", scopes=(7, 8))
        bench.learn(11, "192.0.2.1", name="x.example")
        await bench.answer(11)
        bench.rules.now = {7: frozenset({"x.example"}), 9: frozenset({"*.example"})}
        bench.book.follow(WORLD, WORLD, frozenset())
        await until(lambda: bench.kernel == {(7, "192.0.2.1")})
        bench.rules.now = {7: frozenset({"y.example"})}
        bench.book.follow(WORLD, WORLD, frozenset())
        await until(lambda: not bench.kernel)


async def test_a_pattern_that_goes_during_the_commit_takes_the_answer_with_it() -> None:
    async with Bench().running() as bench:
        bench.gate.clear()
        bench.learn(1, "192.0.2.1")
        await asyncio.sleep(0.01)
        bench.rules.now = {}
        bench.book.follow(WORLD, WORLD, frozenset())
        bench.gate.set()
        assert await bench.answer(1) == 0
        await until(lambda: not bench.kernel)


async def test_a_kernel_that_refuses_means_no() -> None:
    async with Bench().running() as bench:
        bench.fails = 1
        bench.learn(1, "192.0.2.1")
        assert await bench.answer(1) == 0
        assert "not let through" in bench.problems.text("egress-names")
        await until(lambda: not bench.problems.texts())
        bench.learn(2, "192.0.2.1")
        assert await bench.answer(2) == 65.0


async def test_a_new_agent_goes_on_with_what_the_kernel_holds() -> None:
    async with Bench().running() as old:
        old.learn(1, "192.0.2.1", "2001:db8::1")
        old.learn(2, "192.0.2.9", scopes=(8,))
        await old.answer(2)
    new = Bench(old.runner)
    new.rules.now = {7: frozenset({"*.example"})}
    async with new.running():
        assert new.kernel == {(7, "192.0.2.1"), (7, "2001:db8::1")}, "a scope that is no more takes its addresses with it"
        new.learn(1, "192.0.2.1")
        assert new.answers[1] == 65.0, "no commit is needed"
        new.clock.advance(3500)
        await asyncio.sleep(0.03)
        assert len(new.kernel) == 2, "nobody knows how long it was promised for"
        new.clock.advance(200)
        await until(lambda: not new.kernel)


async def test_bounds() -> None:
    async with Bench(limits=EgressLimits(places=5, per_scope=3, waiting=2)).running() as bench:
        bench.gate.clear()
        bench.learn(0, *(f"192.0.2.{number}" for number in range(4)))
        assert bench.answers.pop(0) == 0
        assert "in scope 7" in bench.problems.text("egress-names")
        bench.learn(1, "192.0.2.1")
        bench.learn(2, "192.0.2.2")
        bench.learn(3, "192.0.2.3")
        assert bench.answers == {3: 0}, "too many questions wait"
        bench.gate.set()
        assert await bench.answer(2) == 65.0


async def until(holds: object) -> None:
    assert callable(holds)
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
