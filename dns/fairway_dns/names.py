"""Domain names: text, wire form, reverse names.

A name travels in two shapes. Text is lower-case and has no trailing dot ("web.shop.svc.cluster.local"; "" is the root). A key
is the lower-cased wire form (RFC 1035, 3.1: length octets and labels, closed by a zero octet); length octets are below 0x40, so
lower-casing a whole wire name never harms them.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

MAX_NAME = 255
MAX_LABEL = 63
ROOT = b"\0"


def to_key(text: str) -> bytes:
    """The wire form of a name, lower-cased. Raises ValueError for empty or long labels, long names and non-ASCII text."""
    name = text.rstrip(".").lower()
    if not name:
        return ROOT
    parts = []
    for label in name.split("."):
        raw = label.encode("ascii")
        if not 0 < len(raw) <= MAX_LABEL:
            raise ValueError(f"bad label {label!r} in name {text!r}")
        parts.append(bytes((len(raw),)) + raw)
    wire = b"".join(parts) + ROOT
    if len(wire) > MAX_NAME:
        raise ValueError(f"name is longer than {MAX_NAME} octets: {text!r}")
    return wire


def to_text(key: bytes) -> str:
    """A wire name as text; octets outside printable ASCII, dots and backslashes inside labels are escaped as \\DDD (RFC 1035,
    5.1).
    """
    labels = []
    pos = 0
    while key[pos]:
        label = key[pos + 1 : pos + 1 + key[pos]]
        labels.append("".join(chr(c) if 0x21 <= c < 0x7F and c not in b".\\" else f"\\{c:03d}" for c in label))
        pos += 1 + key[pos]
    return ".".join(labels)


def client_text(client: bytes) -> str:
    """A packed address as text; "?" for none."""
    return str(ip_address(client)) if client else "?"


def suffixes(key: bytes) -> Iterator[tuple[int, bytes]]:
    """The name itself and every parent with its offset in `key`, longest first, the root left out."""
    pos = 0
    while key[pos]:
        yield pos, key[pos:]
        pos += 1 + key[pos]


def is_host_label(label: str) -> bool:
    """Whether `label` is one lower-case label of letters, digits, hyphens and underscores (RFC 1123, 2.1; RFC 8552)."""
    plain = label.replace("-", "a").replace("_", "a")
    return 0 < len(label) <= MAX_LABEL and plain.isascii() and plain.isalnum() and label == label.lower()


def is_host_name(text: str) -> bool:
    """Whether every label of a name would do for a host and the whole is short enough to be a target."""
    name = text.rstrip(".")
    return 0 < len(name) <= MAX_NAME - 2 and all(is_host_label(label) for label in name.lower().split("."))


def reverse_name(address: str) -> str:
    """The name that holds the PTR record of an address (RFC 1035, 3.5; RFC 3596, 2.5)."""
    return ip_address(address).reverse_pointer


def address_label(address: str) -> str:
    """An address as one label: 10.244.0.5 -> 10-244-0-5, fd00::5 -> fd00--5, ::5 -> 0--5.

    Source: Kubernetes DNS specification 1.1.0, 2.6 (pod names); a label must not begin or end with a hyphen (RFC 1123).
    """
    text = str(ip_address(address)).replace(".", "-").replace(":", "-")
    return ("0" if text.startswith("-") else "") + text + ("0" if text.endswith("-") else "")


def reverse_zones(cidr: str) -> tuple[str, ...]:
    """Apexes of the reverse zones that together cover exactly `cidr`: whole octets (IPv4) or nibbles (IPv6).

    10.96.0.0/12 gives 16 names, 10.244.0.0/24 one, a /26 its 64 host names. Raises ValueError for what is no CIDR.
    """
    network = ip_network(cidr)
    step = 8 if network.version == 4 else 4
    length = max(step, -(-network.prefixlen // step) * step)
    return tuple(_zone_of(part, length // step) for part in network.subnets(new_prefix=max(length, network.prefixlen)))


def _zone_of(network: IPv4Network | IPv6Network, labels: int) -> str:
    pointer = network.network_address.reverse_pointer.split(".")
    return ".".join(pointer[len(pointer) - 2 - labels :])
