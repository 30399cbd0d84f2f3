"""Why a connection is allowed or denied, as JSON-ready values and plain English; the engine of `fairway why`.

The shape of the answer is described in README.md, "The answer to why".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from fairway_core.keys import Key
from fairway_core.model import NetworkPolicy, Pod, Rule, Service
from fairway_core.model.policy import INGRESS
from fairway_core.world import World
from fairway_policy.describe import describe_peer, describe_peers, describe_ports, service_word
from fairway_policy.targets import Attempt, Place, attempts, nothing_offered, place, service_port, source_of
from fairway_policy.verdict import End, Flow, Judgement, Side, judge, peer_matches, port_matches

Answer = dict[str, Any]
EXEMPTIONS = {
    "itself": "a pod always reaches itself, whatever the policies say",
    "own-node": "a pod and the node it runs on always reach each other, whatever the policies say",
}


def explain(world: World, source: str, destination: str, port: int | None = None, protocol: str = "TCP") -> Answer:
    """Judge the connections that the question stands for and say who decides. `port` may be left out for ICMP and for a
    service with one port of the protocol.

    Promise: `allowed` is true if every one of them is allowed and there is at least one. Raises UserError for names that are not
    there, for ambiguous ports, and for ends without a common family.
    """
    begin, goal = source_of(world, source), place(world, destination, port)
    through = destination if isinstance(goal, Service) and "/" not in destination else ""
    checks = [_check(world, begin, goal, attempt) for attempt in attempts(world, begin, goal, port, protocol, through)]
    allowed = bool(checks) and all(check["allowed"] for check in checks)
    found = service_port(goal, port, protocol) if isinstance(goal, Service) else None
    chosen = found.port if found else port
    lost = nothing_offered(world, begin, goal, found, through) if found and isinstance(goal, Service) and not checks else ""
    question = f"{_title(begin)} to {_title(goal)}, {service_word(protocol, chosen or 0)}"
    return {
        "allowed": allowed,
        "source": _as_json(begin),
        "destination": _as_json(goal),
        "protocol": protocol,
        "port": chosen,
        "checks": checks,
        "lines": [f"{question}: {lost or _summary(checks, goal)}", *_lines(checks)],
    }


def _summary(checks: list[Answer], goal: Place) -> str:
    passing = sum(check["allowed"] for check in checks)
    if not checks:
        return "refused, the service has no usable backend in a family the source has"
    if passing in (0, len(checks)):
        return "allowed" if passing else "denied"
    kind = "backends" if isinstance(goal, Service) else "address pairs"
    return f"denied for {len(checks) - passing} of {len(checks)} {kind}"


def _lines(checks: list[Answer]) -> list[str]:
    """The lines of every check; where the second family only repeats the first, once."""
    lines: list[str] = []
    said: set[tuple[str, ...]] = set()
    for check in checks:
        subject = (check["name"], *check["lines"])
        if subject not in said:
            said.add(subject)
            if len(checks) > 1:
                verdict = "allowed" if check["allowed"] else "denied"
                lines.append(f"{check['name']} at {check['ip']}, {service_word(check['protocol'], check['port'])}: {verdict}")
            lines += [f"  {line}" for line in check["lines"]]
    return lines


def _check(world: World, source: str | Pod, goal: Place, attempt: Attempt) -> Answer:
    flow = Flow(
        _pinned(source, attempt.source),
        attempt.destination if isinstance(goal, Service) else _pinned(goal, attempt.destination),
        attempt.protocol,
        attempt.port,
    )
    judgement = judge(world, flow)
    lines = [EXEMPTIONS[judgement.exempt]] if judgement.exempt else _reasons(world, judgement, flow)
    return {
        "allowed": judgement.allowed,
        "exempt": judgement.exempt,
        "sourceIP": attempt.source,
        "ip": attempt.destination,
        "name": _end_name(judgement.destination),
        "protocol": attempt.protocol,
        "port": attempt.port,
        "egress": _side_as_json(world, judgement.egress),
        "ingress": _side_as_json(world, judgement.ingress),
        "lines": lines,
    }


def _pinned(end: str | Pod, ip: str) -> str | Pod:
    """A pod on a host network says where it runs; any other end is as well known by its address."""
    return replace(end, ips=(ip,)) if isinstance(end, Pod) and end.host_network else ip


def _reasons(world: World, judgement: Judgement, flow: Flow) -> list[str]:
    lines = _side_lines(world, judgement.egress, judgement.source, judgement.destination, flow)
    return lines + _side_lines(world, judgement.ingress, judgement.destination, judgement.source, flow)


def _side_lines(world: World, side: Side, subject: End, peer: End, flow: Flow) -> list[str]:
    head = f"{side.direction.lower()} of {_end_name(subject)}"
    if not side.isolated:
        why = "no policy selects it in this direction" if subject.pod else "policies do not apply to an address of no pod"
        return [f"{head}: allowed, {why}"]
    if side.policy is not None and side.rule is not None:
        found = _deciding_rule(world, side)
        what = f"{_peer_text(side, found)}; {describe_ports(found.ports)}"
        return [f"{head}: allowed by policy {_name(side.policy)}, {side.direction.lower()} rule {side.rule + 1} ({what})"]
    names = ", ".join(map(_name, side.policies))
    lines = [f"{head}: denied by default, selected by {names}, and no {side.direction.lower()} rule there allows it"]
    return lines + [f"  {line}" for line in _near_misses(world, side, subject, peer, flow)]


def _near_misses(world: World, side: Side, subject: End, peer: End, flow: Flow) -> list[str]:
    """Rules that fit one half of the question: what people usually got wrong."""
    destination = subject.pod if side.direction == INGRESS else peer.pod
    lines = []
    for key in side.policies:
        for number, rule in enumerate(_rules(world, key, side.direction), 1):
            who = not rule.peers or any(peer_matches(world, key.namespace, item, peer) for item in rule.peers)
            what = not rule.ports or any(port_matches(item, flow.protocol, flow.port, destination) for item in rule.ports)
            where = f"policy {_name(key)}, {side.direction.lower()} rule {number}"
            if who:
                lines.append(f"{where} fits {_end_name(peer)} but allows only {describe_ports(rule.ports)}")
            elif what:
                lines.append(f"{where} fits the port but is for {describe_peers(rule, key.namespace)}")
    return lines


def _rules(world: World, key: Key, direction: str) -> tuple[Rule, ...]:
    policy = cast("NetworkPolicy", world.objects[key])
    return policy.ingress if direction == INGRESS else policy.egress


def _deciding_rule(world: World, side: Side) -> Rule:
    assert side.policy is not None and side.rule is not None
    return _rules(world, side.policy, side.direction)[side.rule]


def _peer_text(side: Side, rule: Rule) -> str:
    assert side.policy is not None
    return "everybody" if side.peer is None else describe_peer(rule.peers[side.peer], side.policy.namespace)


def _side_as_json(world: World, side: Side) -> Answer:
    answer: Answer = {
        "isolated": side.isolated,
        "allowed": side.allowed,
        "policies": [_name(key) for key in side.policies],
        "policy": None,
        "rule": None,
        "peer": "",
        "ports": "",
    }
    if side.policy is not None and side.rule is not None:
        rule = _deciding_rule(world, side)
        answer |= {"policy": _name(side.policy), "rule": side.rule + 1}
        answer |= {"peer": _peer_text(side, rule), "ports": describe_ports(rule.ports)}
    return answer


def _name(key: Key) -> str:
    return f"{key.namespace}/{key.name}"


def _end_name(end: End) -> str:
    return f"{end.pod.meta.namespace}/{end.pod.meta.name}" if end.pod else end.ip


def _title(where: Place) -> str:
    if isinstance(where, str):
        return where
    prefix = "service " if isinstance(where, Service) else ""
    return f"{prefix}{where.meta.namespace}/{where.meta.name}"


def _as_json(where: Place) -> Answer:
    if isinstance(where, str):
        return {"kind": "Address", "ips": [where]}
    named = {"namespace": where.meta.namespace, "name": where.meta.name}
    if isinstance(where, Service):
        return {"kind": "Service", **named, "ips": list(where.cluster_ips)}
    return {
        "kind": "Pod",
        **named,
        "labels": dict(where.meta.labels),
        "ips": list(where.ips),
        "node": where.node_name,
        "hostNetwork": where.host_network,
    }
