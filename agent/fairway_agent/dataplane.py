"""The node's rules: compilers in, one nft transaction out. Runs on the reconcile thread only.

Rule of the road 1: nothing else writes elements. The policy generation is bumped in a second transaction after a change that
takes rights away, so that established connections are judged again (policy/DESIGN.md).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fairway_core.errors import KernelError
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_kernel.conntrack import Conntrack
from fairway_kernel.nft.compiler import Compiler
from fairway_kernel.nft.objects import Chain, Elements, Layout
from fairway_kernel.nft.runner import NftRunner
from fairway_kernel.nft.tables import NftTables, Repair
from fairway_policy.compiler import PolicyCompiler
from fairway_policy.generation import (
    GENERATION_MASK,
    GENERATION_OWNER,
    generation_chains,
    generation_elements,
    next_generation,
    read_generation,
)
from fairway_proxy.compile import ServiceCompiler


@dataclass(frozen=True, slots=True)
class Applied:
    """What one step did: elements changed, and whether established connections are judged anew."""

    elements: int
    bumped: bool


class Dataplane:
    """Owns the compilers and the tables. Blocking; one thread at a time."""

    def __init__(
        self,
        runner: NftRunner,
        services: ServiceCompiler,
        policy: PolicyCompiler,
        others: Sequence[Compiler],
        conntrack: Conntrack,
        log: logging.Logger,
    ) -> None:
        self._compilers: tuple[Compiler, ...] = (services, policy, *others)
        self._services = services
        self._others = tuple(others)
        self._policy = policy
        self._conntrack = conntrack
        self._log = log
        layout = sum((compiler.layout for compiler in self._compilers), Layout())
        self.chains: tuple[Chain, ...] = layout.chains
        """The constant rules, for whoever reads their counters."""
        self.tables = NftTables(runner, layout, log)
        self._generation = 0
        self._judged = False

    def adopt(self) -> None:
        """Take over what the kernel holds, flushing nothing; numbers found there are kept in use."""
        actual: Elements = self.tables.adopt()
        for compiler in self._compilers:
            compiler.learn(actual)
        self._generation = read_generation(actual)
        # Its record must outlive the first commit, or a crash before the bump would start the numbering anew.
        self.tables.declare(GENERATION_OWNER, generation_elements(self._generation))

    def step(self, before: World, after: World, touched: frozenset[Key]) -> Applied:
        """Bring the kernel from `before` to `after`. Raises KernelError; the next step or `retry` then tries again."""
        for compiler in self._compilers:
            for owner, elements in compiler.update(before, after, touched).items():
                self.tables.declare(owner, elements)
        return self.retry()

    def step_beside(self, world: World) -> Applied:
        """Commit what the compilers that do not follow the world alone have to say; `world` is that of the last step. Raises
        KernelError.
        """
        for compiler in self._others:
            for owner, elements in compiler.update(world, world, frozenset()).items():
                self.tables.declare(owner, elements)
        return self.retry()

    def retry(self) -> Applied:
        """Commit whatever is still pending."""
        delta = self.tables.commit()
        # At start always: the agent may have died between a change that took rights away and its bump. After a comparison with
        # the kernel too: while our rules were not as they should be, anything may have been let in.
        if isinstance(delta, Repair) or self._policy.tightens(delta):
            self._judged = False
        bumped = not self._judged
        self._judge()
        self._forget_stale_flows()
        return Applied(len(delta), bumped)

    def _judge(self) -> None:
        """Have every connection judged anew, if that is due; what fails stays due."""
        if not self._judged:
            self._bump()
            self._judged = True

    def _forget_stale_flows(self) -> None:
        """UDP clients stick to a dead endpoint for as long as their flow is tracked."""
        stale = self._services.stale_flows()
        if not stale:
            return
        try:
            self._conntrack.forget(stale)
        except KernelError as error:
            self._log.warning("flows to endpoints that are gone are not forgotten", extra={"error": str(error)})

    def _bump(self) -> None:
        number, wrapped = next_generation(self._generation)
        if wrapped:
            # An entry stamped with this number one lap ago would pass unjudged: judge everything while marks are cleared.
            self._put_in_force(0)
            self._conntrack.sweep_mark(GENERATION_MASK)
        self._put_in_force(number)

    def _put_in_force(self, number: int) -> None:
        self.tables.replace_chains(generation_chains(number), GENERATION_OWNER, generation_elements(number))
        self._generation = number

    def verify(self) -> int:
        """Compare with the kernel in full and repair; the number of repaired elements and chains."""
        repaired = len(self.tables.verify())
        if repaired:
            self._judged = False
        self._judge()
        return repaired

    def close(self) -> None:
        self.tables.close()
