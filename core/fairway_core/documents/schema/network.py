"""Addresses, prefixes, ports and protocols."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainValidator

from fairway_core.documents.errors import shown
from fairway_core.documents.schema.text import or_empty, port_name

_PREFIX = re.compile(r"[0-9A-Fa-f:.]+/(?:0|[1-9][0-9]{0,2})")


def address(text: str) -> str:
    """An IPv4 or IPv6 address without zone."""
    parse_address(text)
    return text


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """The address. Raises ValueError; a zone or an IPv4 address in IPv6 clothes is ambiguous and refused."""
    try:
        found = ip_address(text)
    except ValueError:
        raise ValueError(f"{shown(text)} is not an IP address") from None
    if isinstance(found, IPv6Address) and (found.scope_id is not None or found.ipv4_mapped is not None):
        raise ValueError(f"{shown(text)} is not a plain IP address (no zone, no IPv4-mapped IPv6)")
    return found


def routable_address(text: str) -> str:
    """An address that can be an endpoint of somebody else (Kubernetes ValidateNonSpecialIP)."""
    found = parse_address(text)
    special = found.is_unspecified or found.is_loopback or found.is_link_local or found.is_multicast
    if special:
        raise ValueError(f"{shown(text)} is unspecified, loopback, link-local or multicast")
    return text


def cidr(text: str) -> str:
    """address/length. Host bits may be set and are ignored, as in Kubernetes."""
    parse_cidr(text)
    return text


def parse_cidr(text: str) -> IPv4Network | IPv6Network:
    """The network. Raises ValueError; netmasks instead of a length are refused."""
    try:
        if not _PREFIX.fullmatch(text):
            raise ValueError
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{shown(text)} is not a CIDR (address/length, such as 10.0.0.0/8)") from None


def family(text: str) -> int:
    """4 or 6."""
    return 6 if ":" in text else 4


def port_number(number: int) -> int:
    """1 to 65535."""
    if not 1 <= number <= 65535:
        raise ValueError(f"must be a port between 1 and 65535, not {shown(number)}")
    return number


def port_or_zero(number: int) -> int:
    """0 for none, or a port."""
    return port_number(number) if number else number


def port_or_name(value: Any) -> int | str:
    """A port number, or the name of a container port."""
    if isinstance(value, str):
        if value.isascii() and value.isdigit():
            raise ValueError(f"must be a port number or a port name, not {shown(value)}: write a number without quotes")
        return port_name(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be a port number or a port name, not {shown(value)}")
    return port_number(value)


def target_port(value: Any) -> int | str:
    """As `port_or_name`; 0 and "" stand for the service's own port."""
    if value == "" or (value == 0 and type(value) is int):
        return 0
    return port_or_name(value)


Address = Annotated[str, AfterValidator(address)]
AddressOrEmpty = Annotated[str, AfterValidator(or_empty(address))]
RoutableAddress = Annotated[str, AfterValidator(routable_address)]
Cidr = Annotated[str, AfterValidator(cidr)]
CidrOrEmpty = Annotated[str, AfterValidator(or_empty(cidr))]
PortNumber = Annotated[int, AfterValidator(port_number)]
PortOrZero = Annotated[int, AfterValidator(port_or_zero)]
PortOrName = Annotated[int | str, PlainValidator(port_or_name)]
TargetPort = Annotated[int | str, PlainValidator(target_port)]
Protocol = Literal["TCP", "UDP", "SCTP"]
