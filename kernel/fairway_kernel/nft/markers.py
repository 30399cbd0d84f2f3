"""How a table says what it was built from: empty chains whose names carry a digest. Pure.

    layout_<digest>   the text of the layout the table was created from: an upgraded program notices an older table
    rules_<digest>    handles of all chains and rules after our own last write: a restarted agent notices foreign edits

Chains, because every supported kernel and nft 1.0.6 can add, remove and list them in the same transaction as the rest; the
comment of a table can be set only when it is created.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from fairway_kernel.nft.objects import Chain, ChainState, Layout, Table
from fairway_kernel.nft.transaction import add_layout

LAYOUT_PREFIX = "layout_"
RULES_PREFIX = "rules_"
_DIGITS = 16


def part_of(layout: Layout, table: Table) -> Layout:
    """The sets and chains of `layout` that belong into `table`."""
    sets = tuple(decl for decl in layout.sets if decl.table == table)
    return Layout(sets, tuple(chain for chain in layout.chains if chain.table == table))


def layout_digest(part: Layout) -> str:
    """Equal exactly for layouts that print the same transaction."""
    return _digest(str(add_layout(part, ())))


def rules_digest(chains: Mapping[str, ChainState]) -> str:
    """Differs after any change of rules or chains, also when somebody restores them from a listing."""
    return _digest("\n".join(f"{name} {chains[name]}" for name in sorted(chains)))


def layout_marker(table: Table, digest: str) -> Chain:
    return Chain(LAYOUT_PREFIX + digest, table=table)


def rules_marker(table: Table, digest: str) -> Chain:
    return Chain(RULES_PREFIX + digest, table=table)


def is_marker(name: str) -> bool:
    """Whether a chain of this name is a marker; layouts must not use such names."""
    return name.startswith((LAYOUT_PREFIX, RULES_PREFIX)) and len(name.split("_", 1)[1]) == _DIGITS


def digest_in(names: frozenset[str], prefix: str) -> str:
    """The digest carried by the one marker with `prefix`; "" if there is none, or more than one."""
    found = [name.removeprefix(prefix) for name in names if name.startswith(prefix) and is_marker(name)]
    return found[0] if len(found) == 1 else ""


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:_DIGITS]
