"""Peers, ports and rules in words, for people who ask why."""

from __future__ import annotations

from collections.abc import Sequence

from fairway_core.model import IpBlock, Peer, PolicyPort, Rule


def describe_peer(peer: Peer, namespace: str) -> str:
    """One entry of from/to; `namespace` is the policy's own."""
    if isinstance(peer, IpBlock):
        return f"addresses in {peer.cidr}" + (f" except {', '.join(peer.excepts)}" if peer.excepts else "")
    pods = f"pods with {peer.pods}" if peer.pods and peer.pods.requirements else "all pods"
    if peer.namespaces is None:
        return f"{pods} in namespace {namespace}"
    if not peer.namespaces.requirements:
        return f"{pods} in any namespace"
    return f"{pods} in namespaces with {peer.namespaces}"


def describe_peers(rule: Rule, namespace: str) -> str:
    """Everybody a rule means."""
    return " or ".join(describe_peer(peer, namespace) for peer in rule.peers) or "everybody"


def describe_port(port: PolicyPort) -> str:
    """One entry of ports."""
    if port.port is None:
        return f"{port.protocol} (any port)"
    if isinstance(port.port, str):
        return f"{port.protocol} port named {port.port}"
    return f"{port.protocol} {port.port}" + (f"-{port.end}" if port.end is not None else "")


def describe_ports(ports: Sequence[PolicyPort]) -> str:
    """Everything a rule allows to be used."""
    return ", ".join(map(describe_port, ports)) or "any protocol and port"


def service_word(protocol: str, port: int) -> str:
    """A protocol and port as people write them."""
    return f"{protocol} {port}" if port else protocol
