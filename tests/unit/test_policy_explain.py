"""What `fairway why` says."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from fairway_core.codec import decode, key_of
from fairway_core.errors import UserError
from fairway_core.world import Change, World
from fairway_policy.explain import explain

SHOP = """
{kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}}
---
{kind: Pod, metadata: {name: web-1, namespace: shop, labels: {app: web}}, spec: {nodeName: n1},
 status: {phase: Running, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}}
---
{kind: Pod, metadata: {name: api-1, namespace: payments, labels: {app: api}},
 spec: {nodeName: n1, containers: [{ports: [{name: https, containerPort: 8443}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.2}, {ip: 'fd00::2'}], conditions: [{type: Ready, status: 'True'}]}}
---
{kind: Pod, metadata: {name: api-2, namespace: payments, labels: {app: api, canary: 'yes'}},
 spec: {nodeName: n2, containers: [{ports: [{name: https, containerPort: 9443}]}]},
 status: {phase: Running, podIPs: [{ip: 10.0.0.3}], conditions: [{type: Ready, status: 'True'}]}}
---
{kind: Pod, metadata: {name: new, namespace: payments}, status: {phase: Pending}}
---
{kind: Service, metadata: {name: api, namespace: payments},
 spec: {clusterIP: 10.96.0.10, selector: {app: api}, ports: [{name: tls, port: 443, targetPort: https}]}}
---
{kind: Service, metadata: {name: idle, namespace: payments},
 spec: {clusterIP: 10.96.0.11, selector: {app: x}, ports: [{port: 80}]}}
---
{kind: NetworkPolicy, metadata: {name: callers, namespace: payments}, spec: {podSelector: {matchLabels: {app: api}},
 ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}},
                    podSelector: {matchLabels: {app: web}}}],
            ports: [{port: https}]}]}}
---
{kind: NetworkPolicy, metadata: {name: canary, namespace: payments}, spec: {podSelector: {matchLabels: {canary: 'yes'}},
 policyTypes: [Ingress, Egress], egress: [{to: [{ipBlock: {cidr: 10.0.0.0/24, except: [10.0.0.1/32]}}], ports: [{port: 80}]}]}}
"""


def world(more: str = "") -> World:
    documents: list[dict[str, Any]] = [item for item in yaml.safe_load_all(SHOP + "---\n" + more) if item]
    return World().apply([Change(key_of(document), decode(document)) for document in documents], 1)[0]


def test_an_allowed_connection_names_policy_rule_and_peer() -> None:
    answer = explain(world(), "shop/web-1", "payments/api-1", 8443)
    assert answer["allowed"] is True
    side = answer["checks"][0]["ingress"]
    assert (side["policy"], side["rule"], side["policies"]) == ("payments/callers", 1, ["payments/callers"])
    assert side["peer"] == "pods with app in (web) in namespaces with kubernetes.io/metadata.name in (shop)"
    assert side["ports"] == "TCP port named https"
    assert answer["checks"][0]["egress"]["isolated"] is False
    assert [check["ip"] for check in answer["checks"]] == ["10.0.0.2", "fd00::2"]
    assert answer["lines"] == [
        "shop/web-1 to payments/api-1, TCP 8443: allowed",
        "payments/api-1 at 10.0.0.2, TCP 8443: allowed",
        "  egress of shop/web-1: allowed, no policy selects it in this direction",
        "  ingress of payments/api-1: allowed by policy payments/callers, ingress rule 1 (pods with app in (web) in namespaces "
        "with kubernetes.io/metadata.name in (shop); TCP port named https)",
    ]


def test_a_denial_says_what_nearly_fitted() -> None:
    answer = explain(world(), "shop/web-1", "payments/api-1", 80)
    assert answer["allowed"] is False
    text = "\n".join(answer["lines"])
    assert "denied by default, selected by payments/callers" in text
    assert "payments/callers, ingress rule 1 fits shop/web-1 but allows only TCP port named https" in text
    text = "\n".join(explain(world(), "198.51.100.1", "payments/api-1", 8443)["lines"])
    assert "rule 1 fits the port but is for pods with app in (web)" in text


def test_each_usable_backend_of_a_service_is_judged_at_its_own_port() -> None:
    answer = explain(world(), "shop/web-1", "payments/api", 443)
    assert answer["allowed"] is True
    assert [(check["name"], check["port"]) for check in answer["checks"]] == [("payments/api-1", 8443), ("payments/api-2", 9443)]
    assert explain(world(), "shop/web-1", "10.96.0.10", 443)["checks"] == answer["checks"], (
        "its virtual address means the service"
    )
    assert explain(world(), "shop/web-1", "payments/api")["port"] == 443, "its only port need not be named"


def test_a_service_that_lets_only_some_through_is_not_allowed() -> None:
    more = """{kind: NetworkPolicy, metadata: {name: out, namespace: shop}, spec: {podSelector: {}, policyTypes: [Egress],
      egress: [{to: [{ipBlock: {cidr: 10.0.0.3/32}}]}]}}"""
    answer = explain(world(more), "shop/web-1", "payments/api", 443)
    assert answer["allowed"] is False
    assert [check["allowed"] for check in answer["checks"]] == [False, True]
    assert answer["lines"][0].endswith("denied for 1 of 2 backends")


def test_exceptions_and_egress() -> None:
    answer = explain(world(), "payments/api-2", "shop/web-1", 80)
    side = answer["checks"][0]["egress"]
    assert (side["isolated"], side["allowed"], side["policies"]) == (True, False, ["payments/canary"])
    assert "addresses in 10.0.0.0/24 except 10.0.0.1/32" in "\n".join(answer["lines"])
    assert explain(world(), "payments/api-2", "10.0.0.77", 80)["allowed"] is True


def test_exemptions_are_said() -> None:
    assert "always reach each other" in explain(world(), "192.0.2.1", "payments/api-1", 1)["lines"][1]
    assert explain(world(), "payments/api-2", "payments/api-2", 1)["checks"][0]["exempt"] == "itself"


def test_icmp_needs_no_port() -> None:
    answer = explain(world(), "shop/web-1", "payments/api-1", protocol="ICMP")
    assert answer["allowed"] is False
    assert answer["lines"][0] == "shop/web-1 to payments/api-1, ICMP: denied"


def test_a_service_without_backends_refuses() -> None:
    answer = explain(world(), "shop/web-1", "payments/idle", 80)
    assert (answer["allowed"], answer["checks"]) == (False, [])
    assert "no usable backend" in answer["lines"][0]


@pytest.mark.parametrize(
    ("source", "destination", "port", "message"),
    [
        ("shop/web-9", "payments/api-1", 80, "no pod or service shop/web-9; in namespace shop there are: web-1"),
        ("nowhere/x", "payments/api-1", 80, "pods are in: payments, shop"),
        ("payments/api", "shop/web-1", 80, "does not begin connections"),
        ("shop/web-1", "payments/api", 80, "has no port 80/TCP; it has 443/TCP"),
        ("shop/web-1", "payments/api-1", None, "which port\\?.*8443/TCP"),
        ("shop/web-1", "payments/new", 80, "has no address"),
        ("shop/web-1", "web-1", 80, "'web-1' is no address"),
        ("shop/web-1", "a/b/c", 80, "names neither"),
        ("10.0.0.9", "2001:db8::1", 80, "no address family in common"),
    ],
)
def test_what_cannot_be_understood(source: str, destination: str, port: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        explain(world(), source, destination, port)
