"""What it takes to bring a table's structure (sets, chains, rules) to a layout. Pure.

Elements are data and survive; rules are text and are rewritten as a whole. Everything is one transaction, so packets meet either
the old table or the new one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fairway_kernel.nft.fields import MAP, same_elements, shape_of
from fairway_kernel.nft.markers import RULES_PREFIX, layout_digest, layout_marker, rules_digest, rules_marker
from fairway_kernel.nft.objects import Chain, Elements, Layout, SetDecl, SetShape, Table, TableState
from fairway_kernel.nft.transaction import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    FlushChain,
    Transaction,
)


@dataclass(frozen=True, slots=True)
class Structure:
    """The steps, none if nothing is wrong; `kept` are the elements that are there once they are done.

    `faults` says what was wrong, for the log; `chains` and `sets` name what is rewritten or made anew.
    """

    transaction: Transaction
    kept: Elements
    faults: tuple[str, ...] = ()
    chains: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()


def tables_of(layout: Layout) -> tuple[Table, ...]:
    """The tables a layout needs, sorted."""
    return tuple(sorted({decl.table for decl in layout.sets} | {chain.table for chain in layout.chains}))


def plan_structure(table: Table, part: Layout, current: Mapping[str, Chain], state: TableState | None) -> Structure:
    """Steps from `state` to `part`, the layout's share of `table`. `current` has the chains with the rules they should hold now.

    Promise: elements of sets whose declaration did not change in a way that matters stay untouched; those of a set that must be
    made anew are added again if they fit. Dropped are only elements that cannot exist any more, among them verdicts naming a
    chain the layout no longer has: a miss in a verdict map is the safe outcome by design.
    """
    if state is None:
        return Structure(_build(table, part, current), {}, ("it is missing",), tuple(current), _names(part))
    faults = _faults(part, state)
    if not faults:
        return Structure(Transaction(), state.elements)
    return _Rewrite(table, part, current, state).structure(faults)


def _names(part: Layout) -> tuple[str, ...]:
    return tuple(decl.name for decl in part.sets)


def _build(table: Table, part: Layout, current: Mapping[str, Chain]) -> Transaction:
    tx = Transaction().add(AddTable(table), AddChain(layout_marker(table, layout_digest(part))))
    tx.add(*(AddSet(decl) for decl in part.sets))
    return tx.add(*_fill(part, current).operations)


def _fill(part: Layout, current: Mapping[str, Chain]) -> Transaction:
    tx = Transaction().add(*(AddChain(chain) for chain in part.chains))
    chains = (current.get(chain.name, chain) for chain in part.chains)
    return tx.add(*(AddRules(chain) for chain in chains if chain.rules))


def _faults(part: Layout, state: TableState) -> tuple[str, ...]:
    sets = {decl.name: shape_of(decl) for decl in part.sets}
    chains = {chain.name for chain in part.chains}
    checks = {
        "the layout is another one": state.layout_hash != layout_digest(part),
        "chains or rules were changed": state.rules_hash != rules_digest(state.chain_states),
        "sets are missing, foreign or of another type": dict(state.shapes) != sets,
        "chains are missing or foreign": state.chains != chains,
        "the table is switched off": state.dormant,
    }
    return tuple(text for text, wrong in checks.items() if wrong)


@dataclass(slots=True)
class _Rewrite:
    """Empties all chains, so that nothing holds on to anything, then removes, adds and fills."""

    table: Table
    part: Layout
    current: Mapping[str, Chain]
    state: TableState
    tx: Transaction = field(default_factory=Transaction)

    def structure(self, faults: tuple[str, ...]) -> Structure:
        shapes = self.state.shapes
        renewed = [decl for decl in self.part.sets if decl.name in shapes and _must_renew(decl, shapes[decl.name])]
        kept = self._kept({decl.name: decl for decl in self.part.sets})
        self.tx.add(AddTable(self.table))
        self._empty_chains()
        self._drop_elements(kept, {decl.name for decl in renewed})
        # Sets before chains: a verdict map holds on to the chains it names.
        self.tx.add(*(DeleteSet(self._present(name)) for name in sorted(self.state.sets - set(_names(self.part)))))
        self.tx.add(*(DeleteSet(decl) for decl in renewed))
        self._remove_chains()
        self._mark()
        self.tx.add(*(AddSet(decl) for decl in self.part.sets))
        self.tx.add(*_fill(self.part, self.current).operations)
        self.tx.add(*_readd(kept, renewed))
        new = {decl.name for decl in self.part.sets if decl.name not in shapes}
        sets = tuple(sorted(new | {decl.name for decl in renewed}))
        return Structure(self.tx, kept, faults, tuple(self.current), sets)

    def _kept(self, decls: Mapping[str, SetDecl]) -> Elements:
        chains = {chain.name for chain in self.part.chains}
        shapes = self.state.shapes
        return {
            slot: value
            for slot, value in self.state.elements.items()
            if slot.set in decls
            and same_elements(shapes[slot.set], shape_of(decls[slot.set]))
            and not (isinstance(value, str) and " " in value and value.split()[-1] not in chains)
        }

    def _empty_chains(self) -> None:
        self.tx.add(*(FlushChain(Chain(name, table=self.table)) for name in sorted(self.state.chains)))

    def _drop_elements(self, kept: Elements, renewed: set[str]) -> None:
        decls = {decl.name: decl for decl in self.part.sets}
        for slot in self.state.elements.keys() - kept.keys():
            if slot.set in decls and slot.set not in renewed:
                self.tx.add(DeleteElements(decls[slot.set], (slot.key,)))

    def _remove_chains(self) -> None:
        # Base chains too: the kernel cannot move one to another hook or priority.
        layout = {chain.name for chain in self.part.chains}
        for name in sorted(self.state.chains):
            if name not in layout or self.state.chain_states[name].base:
                self.tx.add(DeleteChain(Chain(name, table=self.table)))

    def _present(self, name: str) -> SetDecl:
        """Enough of a declaration to delete the set by."""
        is_map = bool(self.state.shapes[name].flags & MAP)
        return SetDecl(name, (), ("mark",) if is_map else None, table=self.table)

    def _mark(self) -> None:
        self.tx.add(*(DeleteChain(Chain(name, table=self.table)) for name in sorted(self.state.markers)))
        self.tx.add(AddChain(layout_marker(self.table, layout_digest(self.part))))


def _must_renew(decl: SetDecl, shape: SetShape) -> bool:
    """Whether a set that is there has to be made anew when the chains are rewritten.

    nft 1.0.6 cannot write a NAT rule that looks into a map with a transport field as data once it has read that map back from the
    kernel ("conflicting protocols specified: tcp vs. th"); a map declared in the same transaction is fine. What packets put
    into a dynamic map would be lost, and no NAT rule uses one of ours.
    """
    unreadable = decl.typeof and not decl.dynamic and any(name.startswith("th ") for name in decl.value or ())
    return unreadable or shape != shape_of(decl)


def _readd(kept: Elements, renewed: Sequence[SetDecl]) -> Iterator[AddElements]:
    for decl in renewed:
        items = tuple((slot.key, value) for slot, value in kept.items() if slot.set == decl.name)
        if items:
            yield AddElements(decl, items)


def stamp(table: Table, state: TableState) -> Transaction:
    """Replace the rules marker by one that fits `state`; empty if it fits already."""
    digest = rules_digest(state.chain_states)
    if digest == state.rules_hash:
        return Transaction()
    old = (name for name in sorted(state.markers) if name.startswith(RULES_PREFIX))
    tx = Transaction().add(*(DeleteChain(Chain(name, table=table)) for name in old))
    return tx.add(AddChain(rules_marker(table, digest)))
