"""A transaction: operations in order, committed by the kernel all or not at all. It prints itself as the exact nft script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fairway_core.delta import Delta
from fairway_kernel.nft.objects import (
    Chain,
    ElementKey,
    ElementValue,
    Layout,
    SetDecl,
    Slot,
    Table,
    render_element,
)


@dataclass(frozen=True, slots=True)
class AddTable:
    table: Table

    def __str__(self) -> str:
        return f"add table {self.table}"


@dataclass(frozen=True, slots=True)
class DeleteTable:
    table: Table

    def __str__(self) -> str:
        return f"delete table {self.table}"


@dataclass(frozen=True, slots=True)
class AddSet:
    decl: SetDecl

    def __str__(self) -> str:
        decl = self.decl
        word = "typeof" if decl.typeof else "type"
        spec = f"{word} {' . '.join(decl.key)}"
        if decl.value is not None:
            spec += f" : {' . '.join(decl.value)}"
        spec += "; "
        spec += f"size {decl.size}; " if decl.size else ""
        spec += f"flags {', '.join(decl.flags)}; " if decl.flags else ""
        spec += f"timeout {decl.timeout}; " if decl.timeout else ""
        spec += "counter; " if decl.counter else ""
        return f"add {'set' if decl.value is None else 'map'} {decl.table} {decl.name} {{ {spec}}}"


@dataclass(frozen=True, slots=True)
class DeleteSet:
    decl: SetDecl

    def __str__(self) -> str:
        return f"delete {'set' if self.decl.value is None else 'map'} {self.decl.table} {self.decl.name}"


@dataclass(frozen=True, slots=True)
class AddChain:
    chain: Chain

    def __str__(self) -> str:
        clause = f" {{ {self.chain.hook} }}" if self.chain.hook else ""
        return f"add chain {self.chain.table} {self.chain.name}{clause}"


@dataclass(frozen=True, slots=True)
class FlushChain:
    chain: Chain

    def __str__(self) -> str:
        return f"flush chain {self.chain.table} {self.chain.name}"


@dataclass(frozen=True, slots=True)
class DeleteChain:
    chain: Chain

    def __str__(self) -> str:
        return f"delete chain {self.chain.table} {self.chain.name}"


@dataclass(frozen=True, slots=True)
class AddRules:
    """All rules of a chain, in order."""

    chain: Chain

    def __str__(self) -> str:
        head = f"add rule {self.chain.table} {self.chain.name}"
        return "\n".join(f"{head} {rule}" for rule in self.chain.rules)


@dataclass(frozen=True, slots=True)
class AddElements:
    decl: SetDecl
    items: tuple[tuple[ElementKey, ElementValue], ...]

    def __str__(self) -> str:
        body = ", ".join(render_element(self.decl, key, value) for key, value in self.items)
        return f"add element {self.decl.table} {self.decl.name} {{ {body} }}"


@dataclass(frozen=True, slots=True)
class DeleteElements:
    decl: SetDecl
    items: tuple[ElementKey, ...]

    def __str__(self) -> str:
        body = ", ".join(render_element(self.decl, key, ()) for key in self.items)
        return f"delete element {self.decl.table} {self.decl.name} {{ {body} }}"


Operation = (
    AddTable | DeleteTable | AddSet | DeleteSet | AddChain | FlushChain | DeleteChain | AddRules | AddElements | DeleteElements
)


@dataclass(slots=True)
class Transaction:
    """Operations in the order they are to be carried out."""

    operations: list[Operation] = field(default_factory=list)

    def add(self, *operations: Operation) -> Transaction:
        self.operations.extend(operations)
        return self

    def __str__(self) -> str:
        lines = (str(operation) for operation in self.operations)
        return "".join(f"{line}\n" for line in lines if line)

    def __bool__(self) -> bool:
        return bool(self.operations)


def add_layout(layout: Layout, tables: Sequence[Table]) -> Transaction:
    """Create tables, sets, chains, rules: sets first, then all chains, then rules, so that any chain may refer to any other.

    Existing sets keep their elements and existing chains are refilled within the transaction, so that this also serves to
    adopt or upgrade a table under traffic.
    """
    tx = Transaction()
    tx.add(*(AddTable(table) for table in tables))
    tx.add(*(AddSet(decl) for decl in layout.sets))
    for chain in layout.chains:
        tx.add(AddChain(chain), FlushChain(chain))
    tx.add(*(AddRules(chain) for chain in layout.chains if chain.rules))
    return tx


def replace_chain(chain: Chain) -> Transaction:
    """Swap the rules of an existing chain in one step."""
    return Transaction([FlushChain(chain), AddRules(chain)])


def element_delta(delta: Delta[Slot, ElementValue], decls: dict[str, SetDecl]) -> Transaction:
    """Deletes, then adds, grouped by set in declaration order: a changed value is a delete and an add of the same key.

    nft 1.0.6 answers EEXIST to adding a key with another value, and a transaction is atomic, so nobody sees the gap.
    """
    deletes: dict[str, list[ElementKey]] = {}
    adds: dict[str, list[tuple[ElementKey, ElementValue]]] = {}
    for slot in (*delta.delete, *delta.change):
        deletes.setdefault(slot.set, []).append(slot.key)
    for slot, value in delta.add.items():
        adds.setdefault(slot.set, []).append((slot.key, value))
    for slot, (_old, new) in delta.change.items():
        adds.setdefault(slot.set, []).append((slot.key, new))
    tx = Transaction()
    for name, decl in decls.items():
        if name in deletes:
            tx.add(DeleteElements(decl, tuple(deletes[name])))
    for name, decl in decls.items():
        if name in adds:
            tx.add(AddElements(decl, tuple(adds[name])))
    return tx
