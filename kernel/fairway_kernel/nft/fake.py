"""A runner without a kernel: keeps tables in memory and refuses what the kernel refuses, with the same errno.

Shipped beside the real runner and held to the same contract tests (tests/contract/test_nft_runner.py). Stricter in two points: an
element that is not in canonical form (`fairway_kernel.nft.fields`) is EINVAL, because it would never read back equal; an interval
that encloses another is EEXIST also in concatenated sets, where the kernel (6.18) takes it and then matches either.
"""

from __future__ import annotations

import errno
import itertools
import re
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from fairway_core.errors import KernelError
from fairway_kernel.nft.fields import canonical_key, shape_of
from fairway_kernel.nft.markers import LAYOUT_PREFIX, RULES_PREFIX, digest_in, is_marker
from fairway_kernel.nft.objects import (
    Atom,
    Chain,
    ChainState,
    ElementKey,
    ElementValue,
    Layout,
    Range,
    SetDecl,
    Slot,
    Table,
    TableState,
)
from fairway_kernel.nft.transaction import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
    Operation,
    Transaction,
    add_layout,
)

_TARGET = re.compile(r"\b(?:jump|goto) ([A-Za-z_][\w]*)")
_SET_NAME = re.compile(r"@([A-Za-z_]\w*)(?![\w,])")


@dataclass(slots=True)
class _Set:
    decl: SetDecl
    items: dict[ElementKey, ElementValue] = field(default_factory=dict)
    # Keys by their single-valued fields: only those can overlap.
    ranged: dict[ElementKey, list[ElementKey]] = field(default_factory=dict)

    def copy(self) -> _Set:
        return _Set(self.decl, dict(self.items), {fixed: list(keys) for fixed, keys in self.ranged.items()})


@dataclass(slots=True)
class _Chain:
    handle: int
    hook: str
    rules: tuple[tuple[int, str], ...] = ()


@dataclass(slots=True)
class _Table:
    sets: dict[str, _Set] = field(default_factory=dict)
    chains: dict[str, _Chain] = field(default_factory=dict)
    dormant: bool = False

    def copy(self) -> _Table:
        return _Table(dict(self.sets), {name: copy(chain) for name, chain in self.chains.items()}, self.dormant)


class FakeRunner:
    """Implements NftRunner in memory. `transactions` holds what was committed, oldest first."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self._tables: dict[Table, _Table] = {}
        self._failures: list[KernelError] = []
        self._handles = itertools.count(1)

    def run(self, transaction: Transaction) -> None:
        """Commit all or nothing."""
        if self._failures:
            raise self._failures.pop(0)
        draft = _Draft(self._tables, self._handles)
        for operation in transaction.operations:
            draft.apply(operation)
        self._tables = draft.tables
        self.transactions.append(transaction)

    def read(self, table: Table, layout: Layout, elements: bool = True) -> TableState | None:
        """See NftRunner."""
        found = self._tables.get(table)
        if found is None:
            return None
        names = frozenset(found.chains)
        states = {
            name: ChainState(chain.handle, chain.hook, tuple(handle for handle, _rule in chain.rules))
            for name, chain in found.chains.items()
            if not is_marker(name)
        }
        return TableState(
            sets=frozenset(found.sets),
            chains=frozenset(states),
            elements=dict(self._read_elements(found, layout)) if elements else {},
            layout_hash=digest_in(names, LAYOUT_PREFIX),
            rules_hash=digest_in(names, RULES_PREFIX),
            markers=frozenset(filter(is_marker, names)),
            shapes={name: shape_of(item.decl) for name, item in found.sets.items()},
            chain_states=states,
            dormant=found.dormant,
        )

    def close(self) -> None:
        """Nothing to release."""

    def fail_next(self, error: KernelError) -> None:
        """Let the next transaction (after those already asked for) be refused with `error`."""
        self._failures.append(error)

    def flush_ruleset(self) -> None:
        """What a foreign `nft flush ruleset` does."""
        self._tables = {}

    def dump(self) -> str:
        """Everything as one nft script, in a fixed order."""
        result = Transaction()
        for table, content in sorted(self._tables.items()):
            sets = tuple(content.sets[name].decl for name in sorted(content.sets))
            chains = tuple(_as_chain(table, name, content.chains[name]) for name in sorted(content.chains))
            result.add(*add_layout(Layout(sets, chains), (table,)).operations)
            for decl in sets:
                items = tuple(sorted(content.sets[decl.name].items.items(), key=repr))
                if items:
                    result.add(AddElements(decl, items))
        return str(result)

    @staticmethod
    def _read_elements(table: _Table, layout: Layout) -> Iterator[tuple[Slot, ElementValue]]:
        for decl in layout.sets:
            found = table.sets.get(decl.name)
            if found is not None and found.decl.table == decl.table and not decl.dynamic:
                yield from ((Slot(decl.name, key), value) for key, value in found.items.items())


def _as_chain(table: Table, name: str, chain: _Chain) -> Chain:
    return Chain(name, tuple(rule for _handle, rule in chain.rules), chain.hook, table)


class _Draft:
    """The state a transaction is building; thrown away if an operation is refused."""

    def __init__(self, tables: dict[Table, _Table], handles: Iterator[int]) -> None:
        self.tables = {table: content.copy() for table, content in tables.items()}
        self._handles = handles
        self._own: set[int] = set()
        self._carry_out: dict[type, Callable[[Any], None]] = {
            AddTable: self._add_table, DeleteTable: self._delete_table, AddSet: self._add_set, DeleteSet: self._delete_set,
            AddChain: self._add_chain, FlushChain: self._flush_chain, DeleteChain: self._delete_chain, AddRules: self._add_rules,
            AddElements: self._add_elements, DeleteElements: self._delete_elements,
        }  # fmt: skip

    def apply(self, operation: Operation) -> None:
        self._carry_out[type(operation)](operation)

    def _table(self, table: Table) -> _Table:
        return self.tables.get(table) or _refuse(errno.ENOENT, f"no table {table}")

    def _chain(self, chain: Chain) -> _Chain:
        found = self._table(chain.table).chains.get(chain.name)
        return found or _refuse(errno.ENOENT, f"no chain {chain.table} {chain.name}")

    def _set(self, decl: SetDecl) -> _Set:
        """The set, as a copy of this draft's own."""
        table = self._table(decl.table)
        found = table.sets.get(decl.name) or _refuse(errno.ENOENT, f"no set {decl.table} {decl.name}")
        if id(found) not in self._own:
            found = table.sets[decl.name] = found.copy()
            self._own.add(id(found))
        return found

    def _add_table(self, operation: AddTable) -> None:
        self.tables.setdefault(operation.table, _Table()).dormant = False

    def _delete_table(self, operation: DeleteTable) -> None:
        self._table(operation.table)
        del self.tables[operation.table]

    def _add_set(self, operation: AddSet) -> None:
        decl, table = operation.decl, self._table(operation.decl.table)
        known = table.sets.get(decl.name)
        if known is None:
            table.sets[decl.name] = _Set(decl)
        elif (shape_of(known.decl).key, shape_of(known.decl).flags) != (shape_of(decl).key, shape_of(decl).flags):
            _refuse(errno.EEXIST, f"set {decl.name} of another type")

    def _delete_set(self, operation: DeleteSet) -> None:
        decl, table = operation.decl, self._table(operation.decl.table)
        self._set(decl)
        if any(decl.name in _SET_NAME.findall(rule) for chain in table.chains.values() for _handle, rule in chain.rules):
            _refuse(errno.EBUSY, f"set {decl.name} is in use")
        del table.sets[decl.name]

    def _add_chain(self, operation: AddChain) -> None:
        chain, table = operation.chain, self._table(operation.chain.table)
        known = table.chains.get(chain.name)
        if known is None:
            table.chains[chain.name] = _Chain(next(self._handles), chain.hook)
        elif known.hook.split("policy")[0] != chain.hook.split("policy")[0]:
            _refuse(errno.EOPNOTSUPP if known.hook and chain.hook else errno.EEXIST, f"chain {chain.name} with another hook")
        else:
            known.hook = chain.hook

    def _flush_chain(self, operation: FlushChain) -> None:
        self._chain(operation.chain).rules = ()

    def _delete_chain(self, operation: DeleteChain) -> None:
        chain, table = operation.chain, self._table(operation.chain.table)
        rules = self._chain(chain).rules
        if chain.name in self._targets(table, besides=rules):
            _refuse(errno.EBUSY, f"chain {chain.name} is in use")
        del table.chains[chain.name]

    def _targets(self, table: _Table, besides: tuple[tuple[int, str], ...]) -> set[str]:
        rules = (rule for chain in table.chains.values() if chain.rules is not besides for _handle, rule in chain.rules)
        verdicts = (value for item in table.sets.values() if item.decl.value == ("verdict",) for value in item.items.values())
        return {name for text in (*rules, *map(str, verdicts)) for name in _TARGET.findall(text)}

    def _add_rules(self, operation: AddRules) -> None:
        chain, table = self._chain(operation.chain), self._table(operation.chain.table)
        for rule in operation.chain.rules:
            for name in _TARGET.findall(rule):
                if name not in table.chains:
                    _refuse(errno.ENOENT, f"no chain {name} for rule {rule!r}")
            for name in _SET_NAME.findall(rule):
                if name not in table.sets:
                    _refuse(errno.ENOENT, f"no set {name} for rule {rule!r}")
        chain.rules += tuple((next(self._handles), rule) for rule in operation.chain.rules)

    def _add_elements(self, operation: AddElements) -> None:
        found, chains = self._set(operation.decl), self._table(operation.decl.table).chains
        for key, value in operation.items:
            if canonical_key(found.decl, key) != key:
                _refuse(errno.EINVAL, f"element {key} of {found.decl.name} is not canonical")
            if isinstance(value, str) and any(name not in chains for name in _TARGET.findall(value)):
                _refuse(errno.ENOENT, f"no chain for element {key} : {value}")
            self._insert(found, key, value)

    def _insert(self, found: _Set, key: ElementKey, value: ElementValue) -> None:
        name = found.decl.name
        if key in found.items:
            if found.items[key] != value:
                _refuse(errno.EEXIST, f"element {key} of {name} has another value")
            return
        neighbours = found.ranged.setdefault(_fixed(key), []) if _is_ranged(key) else []
        if any(_overlap(key, other) for other in neighbours):
            _refuse(errno.EEXIST, f"element {key} of {name} overlaps another")
        if found.decl.size and len(found.items) >= found.decl.size:
            _refuse(errno.ENFILE, f"set {name} is full")
        found.items[key] = value
        neighbours.append(key)

    def _delete_elements(self, operation: DeleteElements) -> None:
        found = self._set(operation.decl)
        for key in operation.items:
            if key not in found.items:
                _refuse(errno.ENOENT, f"no element {key} in {found.decl.name}")
            del found.items[key]
            if _is_ranged(key):
                found.ranged[_fixed(key)].remove(key)


def _refuse(number: int, detail: str) -> Any:
    raise KernelError(number, "nft transaction", detail)


def _is_ranged(key: ElementKey) -> bool:
    return any(isinstance(atom, Range) for atom in key)


def _fixed(key: ElementKey) -> ElementKey:
    return tuple(atom for atom in key if not isinstance(atom, Range))


def _overlap(one: ElementKey, other: ElementKey) -> bool:
    return all(map(_meet, one, other))


def _meet(one: Atom, other: Atom) -> bool:
    if not isinstance(one, Range) or not isinstance(other, Range):
        return one == other
    return _order(one.low) <= _order(other.high) and _order(other.low) <= _order(one.high)


def _order(value: str | int) -> int:
    return value if isinstance(value, int) else int(ip_address(value))
