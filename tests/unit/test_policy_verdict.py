"""The reference evaluator against the documentation, case by case."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fairway_core.codec import decode, key_of
from fairway_core.errors import UserError
from fairway_core.keys import Key
from fairway_core.model import Pod
from fairway_core.world import Change, World
from fairway_policy.verdict import Flow, Judgement, judge

OBJECTS = """
{kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{kind: Namespace, metadata: {name: shop, labels: {team: red}}}
---
{kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}}, spec: {nodeName: n1},
 status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{kind: Pod, metadata: {name: api, namespace: shop, labels: {app: api}},
 spec: {nodeName: n1, containers: [{ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}]}}
---
{kind: Pod, metadata: {name: lone, namespace: undeclared, labels: {app: web}}, spec: {nodeName: n2},
 status: {phase: Running, podIP: 10.0.0.3}}
---
{kind: Pod, metadata: {name: agent, namespace: shop, labels: {app: web}}, spec: {nodeName: n1, hostNetwork: true},
 status: {phase: Running, podIP: 192.0.2.1}}
---
{kind: Pod, metadata: {name: done, namespace: shop, labels: {app: api}}, spec: {nodeName: n1},
 status: {phase: Succeeded, podIP: 10.0.0.1}}
"""


def world(*specs: str, namespace: str = "shop") -> World:
    """The pods above, and one policy per spec, called p0, p1, … ."""
    documents: list[dict[str, Any]] = list(yaml.safe_load_all(OBJECTS))
    for number, spec in enumerate(specs):
        meta = {"name": f"p{number}", "namespace": namespace}
        documents.append({"kind": "NetworkPolicy", "metadata": meta, "spec": yaml.safe_load(f"{{{spec}}}")})
    return World().apply([Change(key_of(document), decode(document)) for document in documents], 1)[0]


def ask(where: World, source: str, destination: str, port: int = 80, protocol: str = "TCP") -> Judgement:
    return judge(where, Flow(source, destination, protocol, port))


WEB, API, LONE, OUTSIDE, NODE = "10.0.0.1", "10.0.0.2", "10.0.0.3", "198.51.100.7", "192.0.2.1"
NAME_LABEL = "{kubernetes.io/metadata.name: undeclared}"
TO_API = "podSelector: {matchLabels: {app: api}}"

CASES = [
    ("no policy", (), WEB, API, 80, "TCP", True),
    ("default deny", (f"{TO_API}, policyTypes: [Ingress]",), WEB, API, 80, "TCP", False),
    ("deny everything, ICMP too", (f"{TO_API}, policyTypes: [Ingress]",), WEB, API, 0, "ICMP", False),
    ("a rule without ports allows ICMP", (f"{TO_API}, ingress: [{{}}]",), OUTSIDE, API, 0, "ICMP", True),
    (
        "a protocol alone allows all its ports",
        (f"{TO_API}, ingress: [{{ports: [{{protocol: UDP}}]}}]",),
        WEB,
        API,
        9,
        "UDP",
        True,
    ),
    ("and no other protocol", (f"{TO_API}, ingress: [{{ports: [{{protocol: UDP}}]}}]",), WEB, API, 0, "ICMP", False),
    ("TCP by default", (f"{TO_API}, ingress: [{{ports: [{{port: 80}}]}}]",), WEB, API, 80, "UDP", False),
    ("SCTP is not TCP", (f"{TO_API}, ingress: [{{ports: [{{port: 80, protocol: SCTP}}]}}]",), WEB, API, 80, "TCP", False),
    ("SCTP is SCTP", (f"{TO_API}, ingress: [{{ports: [{{port: 80, protocol: SCTP}}]}}]",), WEB, API, 80, "SCTP", True),
    ("end of a range", (f"{TO_API}, ingress: [{{ports: [{{port: 80, endPort: 90}}]}}]",), WEB, API, 90, "TCP", True),
    ("beyond a range", (f"{TO_API}, ingress: [{{ports: [{{port: 80, endPort: 90}}]}}]",), WEB, API, 91, "TCP", False),
    ("union", (f"{TO_API}, policyTypes: [Ingress]", f"{TO_API}, ingress: [{{}}]"), WEB, API, 80, "TCP", True),
    ("a name on the subject", (f"{TO_API}, ingress: [{{ports: [{{port: http}}]}}]",), OUTSIDE, API, 8080, "TCP", True),
    ("a name of another protocol", (f"{TO_API}, ingress: [{{ports: [{{port: dns}}]}}]",), WEB, API, 53, "TCP", False),
    (
        "a name on the peer",
        ("podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]",),
        WEB,
        API,
        8080,
        "TCP",
        True,
    ),
    (
        "a name nobody has outside",
        ("podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: http}]}]",),
        WEB,
        OUTSIDE,
        8080,
        "TCP",
        False,
    ),
    ("own namespace only", (f"{TO_API}, ingress: [{{from: [{{podSelector: {{}}}}]}}]",), LONE, API, 80, "TCP", False),
    (
        "the name label of an undeclared namespace",
        (f"{TO_API}, ingress: [{{from: [{{namespaceSelector: {{matchLabels: {NAME_LABEL}}}}}]}}]",),
        LONE,
        API,
        80,
        "TCP",
        True,
    ),
    (
        "AND within one entry",
        (f"{TO_API}, ingress: [{{from: [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: db}}}}}}]}}]",),
        LONE,
        API,
        80,
        "TCP",
        False,
    ),
    (
        "all pods are not the world",
        (f"{TO_API}, ingress: [{{from: [{{namespaceSelector: {{}}}}]}}]",),
        OUTSIDE,
        API,
        80,
        "TCP",
        False,
    ),
    ("a block holds pods", (f"{TO_API}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/31}}}}]}}]",), WEB, API, 80, "TCP", True),
    (
        "an exception",
        (f"{TO_API}, ingress: [{{from: [{{ipBlock: {{cidr: 10.0.0.0/24, except: [10.0.0.1/32]}}}}]}}]",),
        WEB,
        API,
        80,
        "TCP",
        False,
    ),
    ("types by default, no egress rules", (f"{TO_API}",), API, WEB, 80, "TCP", True),
    ("types by default, egress rules", (f"{TO_API}, egress: [{{to: [{{podSelector: {{}}}}]}}]",), API, OUTSIDE, 80, "TCP", False),
    ("itself", ("podSelector: {}, policyTypes: [Ingress, Egress]",), API, API, 80, "TCP", True),
    ("own node to pod", ("podSelector: {}, policyTypes: [Ingress]",), NODE, API, 80, "TCP", True),
    ("pod to own node", ("podSelector: {}, policyTypes: [Egress]",), API, NODE, 80, "TCP", True),
    ("both ends", ("podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]",), WEB, API, 80, "TCP", False),
]


@pytest.mark.parametrize(("what", "specs", "source", "destination", "port", "protocol", "allowed"), CASES)
def test_semantics(
    what: str, specs: tuple[str, ...], source: str, destination: str, port: int, protocol: str, allowed: bool
) -> None:
    assert ask(world(*specs), source, destination, port, protocol).allowed == allowed


def test_another_node_is_the_world() -> None:
    where = world("podSelector: {}, policyTypes: [Ingress]", namespace="undeclared")
    assert not ask(where, NODE, LONE).allowed


def test_the_deciding_rule_is_named() -> None:
    where = world(
        f"{TO_API}, ingress: [{{ports: [{{port: 1}}]}}]",
        f"{TO_API}, ingress: [{{ports: [{{port: 2}}]}}, {{from: [{{ipBlock: {{cidr: 1.1.1.1/32}}}}, {{podSelector: {{}}}}]}}]",
    )
    side = ask(where, WEB, API).ingress
    assert (side.policy, side.rule, side.peer) == (Key("NetworkPolicy", "shop", "p1"), 1, 1)
    assert [key.name for key in side.policies] == ["p0", "p1"]


def test_host_network_and_finished_pods_are_not_selected() -> None:
    where = world("podSelector: {}, policyTypes: [Ingress, Egress]")
    agent, done = where.pod("shop", "agent"), where.pod("shop", "done")
    assert isinstance(agent, Pod) and isinstance(done, Pod)
    judgement = judge(where, Flow(OUTSIDE, agent))
    assert judgement.allowed and judgement.destination.pod is None and not judgement.ingress.isolated
    assert ask(where, OUTSIDE, WEB).destination.pod == where.pod("shop", "web"), "the address is the living pod's"


def test_a_host_network_pod_is_its_node() -> None:
    """Its node may have told no address; where it runs is known all the same."""
    where = world("podSelector: {}, policyTypes: [Ingress]").apply([Change(Key("Node", "", "n1"), None)], 2)[0]
    agent = where.pod("shop", "agent")
    assert isinstance(agent, Pod)
    assert judge(where, Flow(agent, API)).exempt == "own-node"
    assert not ask(where, NODE, API).allowed


def test_pods_meet_in_a_common_family() -> None:
    where = world()
    web, lone = where.pod("shop", "web"), where.pod("undeclared", "lone")
    assert isinstance(web, Pod) and isinstance(lone, Pod)
    assert judge(where, Flow(web, lone)).source.ip == WEB
    assert judge(where, Flow(web, "2001:db8::1")).source.ip == "fd00::1"
    with pytest.raises(UserError, match="no address family in common"):
        judge(where, Flow(lone, "2001:db8::1"))
    with pytest.raises(UserError, match="not an address"):
        judge(where, Flow("web", API))
