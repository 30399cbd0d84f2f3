"""Element operations as netlink messages: the counterpart of `listing`. Pure.

Only elements, the hot path. `messages` answers None for anything else (rules, chains, sets), and the caller writes text.
A first load of a large cluster goes this way too: as text it would cost the library ten times the memory.
Source: include/uapi/linux/netfilter/nf_tables.h; nfnetlink batches as in libnftnl.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import IPv6Address
from typing import Literal

from fairway_kernel.nft import fields, wire
from fairway_kernel.nft.fields import Kind
from fairway_kernel.nft.objects import Atom, ElementKey, ElementValue, Range, SetDecl
from fairway_kernel.nft.transaction import AddElements, DeleteElements, Operation

Encoder = Callable[[str | int], bytes]

_TABLE, _SET, _ELEMENTS = 1, 2, 3
_NESTED = 0x8000
_ITEM, _KEY, _DATA, _FLAGS, _KEY_END = 1 | _NESTED, 1 | _NESTED, 2 | _NESTED, 3, 10 | _NESTED
_INTERVAL_END = (1).to_bytes(4, "big")
_VALUE, _VERDICT, _CODE, _CHAIN = 1, 2 | _NESTED, 1, 2
_VERDICTS = {"drop": 0, "accept": 1, "continue": -1, "jump": -3, "goto": -4, "return": -5}
_CHUNK = 60_000
"""Attributes have 16-bit lengths."""


def messages(operations: Sequence[Operation]) -> list[tuple[int, str, bytes]] | None:
    """Command, table family and body of each message; None if an operation needs text. ValueError for a malformed element."""
    result: list[tuple[int, str, bytes]] = []
    elements = [item for item in operations if isinstance(item, AddElements | DeleteElements)]
    if len(elements) < len(operations):
        return None
    for operation in elements:
        decl = operation.decl
        head = wire.name_attribute(_TABLE, decl.table.name) + wire.name_attribute(_SET, decl.name)
        command = wire.NEWSETELEM if isinstance(operation, AddElements) else wire.DELSETELEM
        for chunk in _chunks(_items(operation)):
            result.append((command, decl.table.family, head + wire.attribute(_ELEMENTS | _NESTED, chunk)))
    return result


def _chunks(items: Iterable[bytes]) -> Iterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for item in items:
        if size + len(item) > _CHUNK:
            yield b"".join(chunk)
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        yield b"".join(chunk)


def _items(operation: AddElements | DeleteElements) -> Iterator[bytes]:
    decl = operation.decl
    value = _value_encoder(decl) if isinstance(operation, AddElements) else _no_value
    pairs = operation.items if isinstance(operation, AddElements) else ((key, ()) for key in operation.items)
    if "interval" in decl.flags and len(decl.key) == 1:
        return _halves(decl, pairs, value)
    key = _key_encoder(decl)
    return (wire.attribute(_ITEM, key(item) + value(data)) for item, data in pairs)


def _halves(
    decl: SetDecl, pairs: Iterable[tuple[ElementKey, ElementValue]], value: Callable[[ElementValue], bytes]
) -> Iterator[bytes]:
    """Intervals of one field are a tree of starts and exclusive ends, of which the last value there is has none."""
    join = _joiner(decl.key, interval=True)
    width = fields.kind_of(decl.key[0]).width
    for key, data in pairs:
        low, high = join([_low(atom) for atom in key]), join([_high(atom) for atom in key])
        if high < low:
            raise ValueError(f"range {key} ends before it begins")
        yield wire.attribute(_ITEM, wire.attribute(_KEY, wire.attribute(_VALUE, low)) + value(data))
        end = int.from_bytes(high, "big") + 1
        if end < 1 << 8 * width:
            key_bytes = wire.attribute(_KEY, wire.attribute(_VALUE, end.to_bytes(width, "big")))
            yield wire.attribute(_ITEM, wire.attribute(_FLAGS, _INTERVAL_END) + key_bytes)


def _key_encoder(decl: SetDecl) -> Callable[[ElementKey], bytes]:
    interval = "interval" in decl.flags
    join = _joiner(decl.key, interval)

    def single(key: ElementKey) -> bytes:
        return wire.attribute(_KEY, wire.attribute(_VALUE, join(key)))

    def ranged(key: ElementKey) -> bytes:
        low, high = join([_low(atom) for atom in key]), join([_high(atom) for atom in key])
        return wire.attribute(_KEY, wire.attribute(_VALUE, low)) + wire.attribute(_KEY_END, wire.attribute(_VALUE, high))

    return ranged if interval else single


def _joiner(names: tuple[str, ...], interval: bool) -> Callable[[Sequence[Atom]], bytes]:
    """Fields to bytes; in a concatenation each is padded to whole registers."""
    kinds = [fields.kind_of(name) for name in names]
    encoders = [_encoder(kind, interval) for kind in kinds]
    paddings = [bytes(fields.padded(kind) - kind.width) if len(kinds) > 1 else b"" for kind in kinds]
    steps = list(zip(encoders, paddings, strict=True))

    def join(atoms: Sequence[Atom]) -> bytes:
        return b"".join([encode(_plain(atom)) + pad for atom, (encode, pad) in zip(atoms, steps, strict=True)])

    return join


def _low(atom: Atom) -> Atom:
    return atom.low if isinstance(atom, Range) else atom


def _high(atom: Atom) -> Atom:
    return atom.high if isinstance(atom, Range) else atom


def _plain(atom: Atom) -> str | int:
    if isinstance(atom, Range):
        raise ValueError(f"range {atom} in a set without intervals")
    return atom


def _no_value(_value: ElementValue) -> bytes:
    return b""


def _value_encoder(decl: SetDecl) -> Callable[[ElementValue], bytes]:
    if decl.value is None:
        return _no_value
    if decl.value == ("verdict",):
        return _verdict
    join = _joiner(decl.value, interval=False)

    def data(value: ElementValue) -> bytes:
        if isinstance(value, str):
            raise ValueError(f"verdict {value!r} in a map of data")
        return wire.attribute(_DATA, wire.attribute(_VALUE, join(value)))

    return data


def _verdict(value: ElementValue) -> bytes:
    word, _space, chain = str(value).partition(" ")
    if word not in _VERDICTS or bool(chain) != (word in ("jump", "goto")):
        raise ValueError(f"verdict {value!r}")
    body = wire.attribute(_CODE, _VERDICTS[word].to_bytes(4, "big", signed=True))
    body += wire.name_attribute(_CHAIN, chain) if chain else b""
    return wire.attribute(_DATA, wire.attribute(_VERDICT, body))


def _encoder(kind: Kind, interval: bool) -> Encoder:
    if kind in _ENCODERS:
        return _ENCODERS[kind]
    order: Literal["little", "big"] = sys.byteorder if kind.host_order and not interval else "big"
    width = kind.width

    def number(value: str | int) -> bytes:
        if isinstance(value, str) or not 0 <= value < 1 << 8 * width:
            raise ValueError(f"{kind.name} {value!r}")
        return value.to_bytes(width, order)

    return number


def _address4(value: str | int) -> bytes:
    data = bytes(map(int, str(value).split(".")))
    if len(data) != 4:
        raise ValueError(f"IPv4 address {value!r}")
    return data


def _address6(value: str | int) -> bytes:
    return IPv6Address(value).packed


def _mac(value: str | int) -> bytes:
    data = bytes.fromhex(str(value).replace(":", ""))
    if len(data) != 6:
        raise ValueError(f"MAC address {value!r}")
    return data


def _protocol(value: str | int) -> bytes:
    return bytes([fields.PROTOCOL_NUMBERS[value] if isinstance(value, str) and value in fields.PROTOCOL_NUMBERS else int(value)])


def _nfproto(value: str | int) -> bytes:
    return bytes([fields.NFPROTO_NUMBERS[str(value)] if value in fields.NFPROTO_NUMBERS else int(value)])


def _ifname(value: str | int) -> bytes:
    data = str(value).encode()
    if not 0 < len(data) < 16:
        raise ValueError(f"interface name {value!r}")
    return data.ljust(16, b"\0")


_ENCODERS: dict[Kind, Encoder] = {
    fields.IPV4: _address4,
    fields.IPV6: _address6,
    fields.MAC: _mac,
    fields.PROTOCOL: _protocol,
    fields.NFPROTO: _nfproto,
    fields.IFNAME: _ifname,
}
