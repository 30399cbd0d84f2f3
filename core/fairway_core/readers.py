"""Small readers of single document fields. Each raises TypeError or ValueError for what its type does not allow.

What passes here ends up in kernel rules and index keys, so a text that is no address, or a number that is no port, must stop
here: one such element would make the kernel refuse the whole transaction.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

from fairway_core.model.meta import family_of

PROTOCOLS = frozenset({"TCP", "UDP", "SCTP"})
MAX_PORT = 65535
_NO_LABELS: Mapping[str, str] = {}


def text(value: Any) -> str:
    """A string; absent means empty."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def texts(values: Any) -> tuple[str, ...]:
    """A list of strings; absent means empty."""
    if isinstance(values, str):
        raise TypeError(f"{values!r} is not a list")
    return tuple(map(text, values or ()))


def word(value: Any) -> str:
    """A string that many objects have, held in memory once; absent means empty."""
    return sys.intern(text(value))


def labels(value: Any) -> Mapping[str, str]:
    """A mapping of strings to strings; absent means empty."""
    return {word(key): word(item) for key, item in dict(value).items()} if value else _NO_LABELS


def whole(value: Any, low: int, high: int) -> int:
    """A whole number within bounds; text and truth values are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    if not low <= value <= high:
        raise ValueError(f"{value} is not within {low} and {high}")
    return value


def port(value: Any) -> int:
    """A port number, 1 to 65535."""
    return whole(value, 1, MAX_PORT)


def port_or_name(value: Any) -> int | str:
    """A port number or the name of one."""
    return value if isinstance(value, str) and value else port(value)


def protocol(value: Any) -> str:
    """TCP, UDP or SCTP; absent means TCP."""
    name = word(value) or "TCP"
    if name not in PROTOCOLS:
        raise ValueError(f"{name!r} is not one of {', '.join(sorted(PROTOCOLS))}")
    return name


def address(value: Any, family: int = 0) -> str:
    """An IP address in canonical form (RFC 5952), of the given family if one is asked for. A zone (%eth0) is refused."""
    canonical = str(ip_address(text(value)))
    if "%" in canonical:
        raise ValueError(f"{value!r} has a zone")
    if family and family_of(canonical) != family:
        raise ValueError(f"{value!r} is not an IPv{family} address")
    return canonical


def addresses(values: Any) -> tuple[str, ...]:
    """A list of IP addresses in canonical form; absent means empty."""
    return tuple(map(address, texts(values)))


def cidr(value: Any) -> str:
    """An address range in canonical form; host bits are dropped."""
    canonical = str(ip_network(text(value), strict=False))
    if "%" in canonical:
        raise ValueError(f"{value!r} has a zone")
    return canonical
