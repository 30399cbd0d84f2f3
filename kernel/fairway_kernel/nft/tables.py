"""The applied state of our tables: adopts what is there, commits what differs, repairs what others broke."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fairway_core.delta import Delta, DeltaTracker, Owner
from fairway_core.errors import KernelError
from fairway_kernel.nft.markers import part_of
from fairway_kernel.nft.objects import Chain, ChainState, Elements, ElementValue, Layout, Slot, Table
from fairway_kernel.nft.plan import Structure, plan_structure, stamp, tables_of
from fairway_kernel.nft.runner import NftRunner
from fairway_kernel.nft.transaction import AddRules, FlushChain, Transaction, element_delta

ElementDelta = Delta[Slot, ElementValue]

EXHAUSTED = frozenset({errno.ENOMEM, errno.ENOSPC, errno.ENFILE, errno.ENOBUFS, errno.EMSGSIZE})
"""Refusals that reading again cannot cure."""
_NOTHING: Mapping[Slot, ElementValue] = {}


@dataclass(frozen=True, slots=True)
class Repair(Delta[Slot, ElementValue]):
    """What `verify` put right: elements as a Delta, and the chains rewritten and sets made anew. Its length counts all."""

    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.add) + len(self.change) + len(self.delete) + len(self.chains) + len(self.sets)

    def __bool__(self) -> bool:
        return len(self) > 0


class NftTables:
    """Owner of everything in our tables. Blocking, for one caller at a time (the agent's reconcile thread).

    Promise: each `commit` is one transaction and costs time in what changed. A layout is upgraded, and drift repaired,
    in a transaction that keeps the elements. Raises ValueError if two layouts declare the same set or chain.
    """

    def __init__(self, runner: NftRunner, layout: Layout, log: logging.Logger) -> None:
        self._runner = runner
        self._log = log
        self._parts = {table: part_of(layout, table) for table in tables_of(layout)}
        self._decls = {decl.name: decl for decl in layout.sets}
        self._chains = {(chain.table, chain.name): chain for chain in layout.chains}
        if len(self._decls) != len(layout.sets) or len(self._chains) != len(layout.chains):
            raise ValueError("layouts declare the same set or chain twice")
        self._tracker: DeltaTracker[Slot, ElementValue] = DeltaTracker()
        self._declared = False
        self._unsure = False
        self._intact = False

    @property
    def element_count(self) -> int:
        """Elements in our sets, as far as known."""
        return len(self._tracker.actual)

    @property
    def adopted_intact(self) -> bool:
        """Whether `adopt` found chains as we left them. If not they hold the layout's text again, and what `replace_chains` put
        there in an earlier life must be put there once more."""
        return self._intact

    def adopt(self) -> Elements:
        """Take over what the kernel holds; create or upgrade the tables if needed, in one transaction.

        Returns the elements found. A table we left behind intact is not written to. Raises KernelError.
        """
        repair = self._restore(Transaction(), elements=False)
        self._intact = not repair.chains
        return dict(self._tracker.actual)

    def declare(self, owner: Owner, elements: Elements) -> None:
        """Replace all that `owner` wants; goes to the kernel with the next `commit`. Raises KeyError for an undeclared set."""
        for slot in elements:
            self._decls[slot.set]
        self._tracker.declare(owner, elements)

    def commit(self) -> ElementDelta:
        """Bring the kernel to what is declared; the difference that was applied.

        If the kernel is not as we thought, reads it anew and tries once more. Raises KernelError; everything stays pending then.
        """
        self._declared = True
        return self._apply(Transaction())

    def replace_chains(self, chains: Sequence[Chain], owner: Owner = ("chains",), elements: Elements = _NOTHING) -> None:
        """Put new rules into chains of the layout, with the elements that record it: one transaction, after all that is pending.

        The rules count as expected from now on. Raises KernelError, KeyError for a chain the layout lacks.
        """
        if self._tracker.pending():
            self.commit()
        self._declared = True
        before = dict(self._chains)
        new = [replace(before[chain.table, chain.name], rules=chain.rules) for chain in chains]
        self.declare(owner, elements)
        self._chains.update(((chain.table, chain.name), chain) for chain in new)
        try:
            self._apply(_refill(new))
        except KernelError:
            self._chains = before
            raise
        self._stamp({chain.table for chain in chains})

    def verify(self) -> Repair:
        """Read everything back, compare with what should be there, repair in one transaction. Raises KernelError.

        Before the first commit only tables, sets and chains are compared: what elements should be there is not known yet.
        """
        if self._declared and self._tracker.pending():
            self.commit()
        return self._restore(Transaction(), elements=self._declared)

    def close(self) -> None:
        """Release the runner; the kernel keeps everything."""
        self._runner.close()

    def _apply(self, first: Transaction) -> ElementDelta:
        """Carry out `first` and all pending elements in one transaction."""
        if self._unsure:
            return self._restore(first, elements=True)
        delta = self._tracker.pending()
        tx = Transaction([*first.operations, *element_delta(delta, self._decls).operations])
        if not tx:
            return delta
        try:
            self._runner.run(tx)
        except KernelError as error:
            if error.errno in EXHAUSTED:
                raise
            self._log.warning("nft refused a transaction, reading the tables again: %s", error)
            return self._restore(first, elements=True)
        self._tracker.committed(delta)
        return delta

    def _restore(self, first: Transaction, *, elements: bool) -> Repair:
        """From the kernel's real state to the expected one, `first` carried out on the way."""
        self._unsure = True
        plans = {table: self._plan(table) for table in self._parts}
        self._tracker.observe({slot: value for plan in plans.values() for slot, value in plan.kept.items()})
        delta: ElementDelta = self._tracker.pending() if elements else Delta()
        tx = Transaction().add(*(step for plan in plans.values() for step in plan.transaction.operations))
        tx.add(*first.operations, *element_delta(delta, self._decls).operations)
        if tx:
            self._runner.run(tx)
        self._tracker.committed(delta)
        self._unsure = False
        self._stamp({table for table, plan in plans.items() if plan.transaction})
        chains = tuple(name for plan in plans.values() for name in plan.chains)
        return Repair(delta.add, delta.change, delta.delete, chains, tuple(name for plan in plans.values() for name in plan.sets))

    def _plan(self, table: Table) -> Structure:
        part = self._parts[table]
        current = {name: chain for (owner, name), chain in self._chains.items() if owner == table}
        plan = plan_structure(table, part, current, self._runner.read(table, part))
        for fault in plan.faults:
            self._log.log(logging.WARNING if self._declared else logging.INFO, "table %s: %s; putting it right", table, fault)
        return plan

    def _stamp(self, tables: Iterable[Table]) -> None:
        """Record in the kernel that its chains are ours as they are now. Failing is no harm: the next `verify` rewrites them."""
        try:
            tx = Transaction()
            for table in sorted(tables):
                state = self._runner.read(table, self._parts[table], elements=False)
                if state is not None and self._as_written(table, state.chain_states):
                    tx.add(*stamp(table, state).operations)
            if tx:
                self._runner.run(tx)
        except KernelError as error:
            self._log.warning("cannot mark the rules as ours: %s", error)

    def _as_written(self, table: Table, states: Mapping[str, ChainState]) -> bool:
        """Guards the moment between writing and reading back: a chain somebody added a rule to is not signed as ours."""
        expected = {name: len(chain.rules) for (owner, name), chain in self._chains.items() if owner == table}
        return expected == {name: len(state.rules) for name, state in states.items()}


def _refill(chains: Sequence[Chain]) -> Transaction:
    tx = Transaction()
    for chain in chains:
        tx.add(FlushChain(chain))
        if chain.rules:
            tx.add(AddRules(chain))
    return tx
