"""What each field of a set key or map value is: its width and byte order in the kernel, and the one form we write it in.

The canonical rule for keys, so that what is read back equals what was compiled:

    in a set with the flag `interval`, every address and port field is a `Range`, also when it holds one value;
    every other field, and every field of every other set, is a single value.

Addresses are canonical text, MAC addresses lower-case text, interface names and nfproto text, tcp/udp/sctp by name and other
protocols by number; marks, ports, class ids and raw payload are integers. Source: nft(8) "DATA TYPES", nftables
include/datatype.h (numbers of the types, which the kernel stores but does not interpret).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import reduce

from fairway_kernel.nft.objects import Atom, ElementKey, Range, SetDecl, SetShape


@dataclass(frozen=True, slots=True)
class Kind:
    """`width` in bytes; `type_id` as nft numbers it. `host_order`: little endian on little-endian machines, but big endian
    in interval sets, where nft swaps it so that ranges compare."""

    name: str
    width: int
    type_id: int
    host_order: bool = False
    ranged: bool = False


NFPROTO = Kind("nf_proto", 1, 2)
NUMBER = Kind("integer", 4, 4, host_order=True)
IPV4 = Kind("ipv4_addr", 4, 7, ranged=True)
IPV6 = Kind("ipv6_addr", 16, 8, ranged=True)
MAC = Kind("ether_addr", 6, 9)
PROTOCOL = Kind("inet_proto", 1, 12)
PORT = Kind("inet_service", 2, 13, ranged=True)
MARK = Kind("mark", 4, 19, host_order=True)
CLASSID = Kind("classid", 4, 23, host_order=True)
IFNAME = Kind("ifname", 16, 41)

PROTOCOL_NAMES = {6: "tcp", 17: "udp", 132: "sctp"}
PROTOCOL_NUMBERS = {name: number for number, name in PROTOCOL_NAMES.items()}
NFPROTO_NAMES = {2: "ipv4", 10: "ipv6"}
NFPROTO_NUMBERS = {name: number for number, name in NFPROTO_NAMES.items()}

VERDICT_TYPE = 0xFFFFFF00
VERDICT_WIDTH = 16
CONSTANT, INTERVAL, MAP, TIMEOUT, DYNAMIC = 0x02, 0x04, 0x08, 0x10, 0x20
_FLAG_BITS = {"constant": CONSTANT, "interval": INTERVAL, "timeout": TIMEOUT, "dynamic": DYNAMIC}
SHAPE_FLAGS = CONSTANT | INTERVAL | MAP | TIMEOUT | DYNAMIC

_BY_TYPE = {kind.name: kind for kind in (NFPROTO, IPV4, IPV6, MAC, PROTOCOL, PORT, MARK, CLASSID, IFNAME)}
_BY_EXPRESSION = {
    "meta l4proto": PROTOCOL, "ip protocol": PROTOCOL, "ip6 nexthdr": PROTOCOL, "ct protocol": PROTOCOL,
    "meta nfproto": NFPROTO, "meta mark": MARK, "ct mark": MARK, "meta priority": CLASSID,
    "ether saddr": MAC, "ether daddr": MAC, "arp saddr ether": MAC, "arp daddr ether": MAC,
    "arp saddr ip": IPV4, "arp daddr ip": IPV4,
}  # fmt: skip
_PATTERNS = (
    (re.compile(r"(ct (original|reply) )?ip [sd]addr"), IPV4),
    (re.compile(r"(ct (original|reply) )?ip6 [sd]addr"), IPV6),
    (re.compile(r"(th|tcp|udp|sctp) [sd]port|ct (original|reply) proto-(src|dst)"), PORT),
    (re.compile(r"(meta )?[io]ifname"), IFNAME),
    (re.compile(r"(numgen|jhash|symhash) .*"), NUMBER),
)
_RAW = re.compile(r"@(?:ll|nh|th|ih),\d+,(\d+)")
_TIME = re.compile(r"(\d+)(ms|d|h|m|s)")
_MILLISECONDS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}


def kind_of(field: str) -> Kind:
    """The kind behind a type name or a typeof expression of a SetDecl. Raises ValueError for one that is not supported."""
    known = _BY_TYPE.get(field) or _BY_EXPRESSION.get(field)
    if known is not None:
        return known
    raw = _RAW.fullmatch(field)
    if raw:
        return Kind("integer", (int(raw[1]) + 7) // 8, 4)
    for pattern, kind in _PATTERNS:
        if pattern.fullmatch(field):
            return kind
    raise ValueError(f"field {field!r}: not a supported nft type or expression")


def padded(kind: Kind) -> int:
    """Bytes the field takes in a concatenation: whole 32-bit registers."""
    return (kind.width + 3) & ~3


def canonical_key(decl: SetDecl, key: ElementKey) -> ElementKey:
    """`key` in the canonical form (module docstring): single addresses and ports of interval sets become ranges."""
    if "interval" not in decl.flags:
        return key
    return tuple(_ranged(atom) if kind_of(name).ranged else atom for name, atom in zip(decl.key, key, strict=True))


def _ranged(atom: Atom) -> Range:
    return atom if isinstance(atom, Range) else Range(atom, atom)


def shape_of(decl: SetDecl) -> SetShape:
    """What the kernel will remember of a declaration: sets of equal shape can stand in for each other."""
    bits = reduce(lambda all_bits, flag: all_bits | _FLAG_BITS[flag], decl.flags, 0)
    bits |= MAP if decl.value is not None else 0
    # A timeout implies the flag, see nft(8) "SETS".
    bits |= TIMEOUT if decl.timeout else 0
    value = decl.value or ()
    data = (VERDICT_TYPE, VERDICT_WIDTH) if value == ("verdict",) else _type_of(value)
    return SetShape(bits, _type_of(decl.key), data, decl.size, milliseconds(decl.timeout), decl.counter)


def same_elements(one: SetShape, other: SetShape) -> bool:
    """Whether elements of one set are valid elements of the other, whatever else differs."""
    mask = INTERVAL | MAP
    return one.key == other.key and one.data == other.data and one.flags & mask == other.flags & mask


def _type_of(fields: tuple[str, ...]) -> tuple[int, int]:
    kinds = [kind_of(field) for field in fields]
    if len(kinds) == 1:
        return kinds[0].type_id, kinds[0].width
    number = reduce(lambda number, kind: number << 6 | kind.type_id, kinds, 0)
    return number & 0xFFFFFFFF, sum(map(padded, kinds))


def milliseconds(text: str) -> int:
    """An nft time such as "3h" or "1m30s"; "" is 0. Raises ValueError."""
    if text and _TIME.sub("", text):
        raise ValueError(f"time {text!r}: not understood")
    return sum(int(amount) * _MILLISECONDS[unit] for amount, unit in _TIME.findall(text))
