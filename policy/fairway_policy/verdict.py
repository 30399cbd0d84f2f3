"""The reference evaluator: what the policies mean, read straight off the objects. Slow on purpose, and free of cleverness.

It is the oracle the compiler is tested against and the engine of `explain`. It shares no code with the compiler.
Sources: Kubernetes documentation "Network Policies"; API reference NetworkPolicy v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.model import IpBlock, NetworkPolicy, Peer, Pod, PolicyPort, Rule
from fairway_core.model.meta import family_of
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.world import World


@dataclass(frozen=True, slots=True)
class Flow:
    """A connection, by the addresses and the port after service translation. An end is an address or a pod; of a pod with
    several addresses the first one of a family the other end has too is meant. `protocol` is upper case; `port` is 0 for
    protocols without ports, such as ICMP.
    """

    source: str | Pod
    destination: str | Pod
    protocol: str = "TCP"
    port: int = 0


@dataclass(frozen=True, slots=True)
class End:
    """One end of a flow: its address, and the pod it belongs to if that is a pod policies know of."""

    ip: str
    pod: Pod | None = None
    host_of: str = ""
    """The node whose own network this is, if the end was given as a pod on a host network."""


@dataclass(frozen=True, slots=True)
class Side:
    """What one direction says. `policies` are all that isolate the subject; `policy`, `rule` and `peer` (positions from 0; None
    for a rule without peers) name the first that allows the flow.
    """

    direction: str
    isolated: bool = False
    allowed: bool = True
    policies: tuple[Key, ...] = ()
    policy: Key | None = None
    rule: int | None = None
    peer: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The answer. `exempt` is "itself" or "own-node" where policies do not apply, else empty."""

    allowed: bool
    source: End
    destination: End
    egress: Side
    ingress: Side
    exempt: str = ""


def judge(world: World, flow: Flow) -> Judgement:
    """Whether the flow may begin, and who says so. Both ends must allow it; replies follow the connection.

    A pod always reaches itself, and a pod and its own node always reach each other. Raises UserError for ends that are no
    addresses or share no family.
    """
    source, destination = ends(world, flow)
    egress = _side(world, EGRESS, source, destination, flow)
    ingress = _side(world, INGRESS, destination, source, flow)
    exempt = _exempt(world, source, destination)
    allowed = bool(exempt) or (egress.allowed and ingress.allowed)
    return Judgement(allowed, source, destination, egress, ingress, exempt)


def ends(world: World, flow: Flow) -> tuple[End, End]:
    """The two ends of a flow as addresses of one family. Raises UserError if there is no such pair."""
    for source in _addresses(flow.source):
        for destination in _addresses(flow.destination):
            if family_of(source) == family_of(destination):
                return _end(world, flow.source, source), _end(world, flow.destination, destination)
    raise UserError(f"no address family in common between {_name(flow.source)} and {_name(flow.destination)}")


def _addresses(end: str | Pod) -> tuple[str, ...]:
    if isinstance(end, Pod):
        return end.ips
    try:
        return (str(ip_address(end)),)
    except ValueError as error:
        raise UserError(f"not an address: {end!r}") from error


def _name(end: str | Pod) -> str:
    if isinstance(end, Pod):
        return f"{end.meta.namespace}/{end.meta.name} ({', '.join(end.ips) or 'no address'})"
    return end


def _end(world: World, given: str | Pod, ip: str) -> End:
    if not isinstance(given, Pod):
        return End(ip, world.pod_of_ip(ip))
    if given.on_pod_network:
        return End(ip, given)
    return End(ip, world.pod_of_ip(ip), given.node_name if given.host_network else "")


def _exempt(world: World, source: End, destination: End) -> str:
    if source.pod is not None and destination.pod is not None and _key(source.pod) == _key(destination.pod):
        return "itself"
    own = _is_own_node(world, source, destination) or _is_own_node(world, destination, source)
    return "own-node" if own else ""


def _key(pod: Pod) -> Key:
    return pod.meta.key("Pod")


def _is_own_node(world: World, end: End, of: End) -> bool:
    """Whether `end` is the network of the node that the pod `of` runs on."""
    if of.pod is None or end.pod is not None or not of.pod.node_name:
        return False
    addresses = (ip for node in world.nodes() if node.meta.name == of.pod.node_name for ip in node.addresses)
    return end.host_of == of.pod.node_name or end.ip in addresses


def _side(world: World, direction: str, subject: End, peer: End, flow: Flow) -> Side:
    selecting = _selecting(world, direction, subject.pod)
    if not selecting:
        return Side(direction)
    destination = peer if direction == EGRESS else subject
    keys = tuple(policy.meta.key("NetworkPolicy") for policy in selecting)
    for key, policy in zip(keys, selecting, strict=True):
        for number, rule in enumerate(policy.ingress if direction == INGRESS else policy.egress):
            if _ports_match(rule, flow, destination.pod):
                matches, position = _peer_position(world, policy, rule, peer)
                if matches:
                    return Side(direction, True, True, keys, key, number, position)
    return Side(direction, True, False, keys)


def _selecting(world: World, direction: str, pod: Pod | None) -> list[NetworkPolicy]:
    if pod is None:
        return []
    return [
        policy
        for policy in world.policies()
        if policy.meta.namespace == pod.meta.namespace and direction in policy.types and policy.pods.matches(pod.meta.labels)
    ]


def _peer_position(world: World, policy: NetworkPolicy, rule: Rule, end: End) -> tuple[bool, int | None]:
    if not rule.peers:
        return True, None
    for position, peer in enumerate(rule.peers):
        if peer_matches(world, policy.meta.namespace, peer, end):
            return True, position
    return False, None


def peer_matches(world: World, namespace: str, peer: Peer, end: End) -> bool:
    """Whether one entry of from/to means this end; `namespace` is the policy's own."""
    if isinstance(peer, IpBlock):
        return _inside(end.ip, peer.cidr) and not any(_inside(end.ip, cidr) for cidr in peer.excepts)
    if end.pod is None:
        return False
    there = end.pod.meta.namespace
    if peer.namespaces is None:
        if there != namespace:
            return False
    elif not peer.namespaces.matches(world.namespace_labels(there)):
        return False
    return peer.pods is None or peer.pods.matches(end.pod.meta.labels)


def _inside(ip: str, cidr: str) -> bool:
    return family_of(ip) == family_of(cidr) and ip_address(ip) in ip_network(cidr)


def _ports_match(rule: Rule, flow: Flow, destination: Pod | None) -> bool:
    return not rule.ports or any(port_matches(port, flow.protocol, flow.port, destination) for port in rule.ports)


def port_matches(port: PolicyPort, protocol: str, number: int, destination: Pod | None) -> bool:
    """Whether one entry of ports means this protocol and port; a name is looked up on the destination pod."""
    if port.protocol != protocol:
        return False
    if port.port is None:
        return True
    if isinstance(port.port, int):
        return port.port <= number <= (port.port if port.end is None else port.end)
    named = destination.ports if destination is not None else ()
    return any((p.name, p.protocol, p.port) == (port.port, protocol, number) for p in named)
