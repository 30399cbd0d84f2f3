"""nftables objects as data (see nft(8)). Pure: no I/O, no library.

A component declares a constant `Layout` (sets, maps, chains) and compiles the world into `Element`s of those sets. Rule text is
written by hand in the layouts; everything that changes at run time is an element, because elements commit in O(change).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address


@dataclass(frozen=True, slots=True, order=True)
class Table:
    """A table: family and name."""

    family: str
    name: str

    def __str__(self) -> str:
        return f"{self.family} {self.name}"


INET = Table("inet", "fairway")
BRIDGE = Table("bridge", "fairway")


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """A closed interval of one key field. For addresses and numbers alike; `low` may equal `high`."""

    low: str | int
    high: str | int


Atom = str | int | Range
ElementKey = tuple[Atom, ...]
ElementValue = tuple[str | int, ...] | str
"""A map element's data: a tuple of concatenated fields, or a verdict in nft words such as "goto deny_in". () in plain sets."""

CLASSID_FIELDS = frozenset({"classid", "meta priority"})


@dataclass(frozen=True, slots=True)
class SetDecl:
    """A named set (`value` None), a map (`value` fields) or a verdict map (`value` == ("verdict",)).

    Fields are nft type names (`ipv4_addr`) or, with `typeof`, expressions (`ip saddr`); one kind per declaration. `size` 0 is
    left out. `timeout` is nft text ("3h"). A dynamic set is filled by packets: the agent never compiles elements for it.
    """

    name: str
    key: tuple[str, ...]
    value: tuple[str, ...] | None = None
    typeof: bool = False
    flags: tuple[str, ...] = ()
    size: int = 0
    timeout: str = ""
    counter: bool = False
    table: Table = INET

    @property
    def dynamic(self) -> bool:
        """Whether packets, not transactions, add the elements."""
        return "dynamic" in self.flags


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain and its rules in order. `hook` is the whole base-chain clause without braces, or empty for a regular chain:
    "type filter hook forward priority filter; policy accept;".
    """

    name: str
    rules: tuple[str, ...] = ()
    hook: str = ""
    table: Table = INET


@dataclass(frozen=True, slots=True)
class Layout:
    """The constant part of one component's rule set. Chains may jump to chains of other layouts."""

    sets: tuple[SetDecl, ...] = ()
    chains: tuple[Chain, ...] = ()

    def __add__(self, other: Layout) -> Layout:
        return Layout(self.sets + other.sets, self.chains + other.chains)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where an element lives: the set's name (unique over all our tables) and the element's key."""

    set: str
    key: ElementKey


Elements = Mapping[Slot, ElementValue]
"""Desired or actual contents of our sets and maps."""


@dataclass(frozen=True, slots=True)
class ChainState:
    """One chain as read back. The kernel never reuses a handle within a table, so equal states mean untouched rules.

    `base` is empty for a regular chain, else type, hook, priority and policy; `rules` are the rules' handles in order.
    """

    handle: int
    base: str = ""
    rules: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetShape:
    """What the kernel remembers of a declaration. `key` and `data` are (type number, bytes), `timeout` is in milliseconds."""

    flags: int
    key: tuple[int, int]
    data: tuple[int, int] = (0, 0)
    size: int = 0
    timeout: int = 0
    counter: bool = False


@dataclass(frozen=True, slots=True)
class TableState:
    """What one of our tables holds, as read back. Marker chains (`fairway_kernel.nft.markers`) are left out of `chains`.

    `dormant`: somebody switched the table off.
    """

    sets: frozenset[str] = frozenset()
    chains: frozenset[str] = frozenset()
    elements: Elements = field(default_factory=dict)
    layout_hash: str = ""
    rules_hash: str = ""
    markers: frozenset[str] = frozenset()
    shapes: Mapping[str, SetShape] = field(default_factory=dict)
    chain_states: Mapping[str, ChainState] = field(default_factory=dict)
    dormant: bool = False


def render_atom(atom: Atom, field_name: str) -> str:
    """One key or data field in nft words; class ids are written major:minor in hex."""
    if isinstance(atom, Range):
        return f"{render_atom(atom.low, field_name)}-{render_atom(atom.high, field_name)}"
    if isinstance(atom, int) and field_name in CLASSID_FIELDS:
        return f"{atom >> 16:x}:{atom & 0xFFFF:x}"
    return str(atom)


def render_element(decl: SetDecl, key: ElementKey, value: ElementValue) -> str:
    """One element as it stands between the braces of `elements = { … }`."""
    text = " . ".join(render_atom(atom, name) for atom, name in zip(key, decl.key, strict=True))
    if value == ():
        return text
    if isinstance(value, str):
        return f"{text} : {value}"
    assert decl.value is not None
    fields = zip(value, decl.value, strict=True)
    return f"{text} : " + " . ".join(render_atom(atom, name) for atom, name in fields)


def canonical_address(text: str) -> str:
    """An address in the one form we use everywhere (RFC 5952 for IPv6)."""
    return str(ip_address(text))
