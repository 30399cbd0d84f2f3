"""Arithmetic with address ranges. Pure."""

from __future__ import annotations

from ipaddress import ip_network


def never_given(cidr: str) -> str:
    """An address that no pod of `cidr` is given, as which a pod may see itself when it reaches itself through the node.

    The first one after the network's own. Where every address is given (a network of one or two) it is one just outside: packets
    to it are translated back before anybody has to have it. Raises ValueError for what is no CIDR.
    """
    network = ip_network(cidr, strict=False)
    if network.num_addresses > 2:
        return str(network[1])
    return str(type(network[0])(int(network[0]) ^ 2))
