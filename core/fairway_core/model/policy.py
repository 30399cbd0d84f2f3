"""NetworkPolicy (networking.k8s.io/v1)."""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Meta
from fairway_core.selectors import Selector

INGRESS = "Ingress"
EGRESS = "Egress"


@dataclass(frozen=True, slots=True)
class PodPeer:
    """Pods as the other side. No namespace selector: the policy's own namespace. No pod selector: all pods there."""

    namespaces: Selector | None
    pods: Selector | None


@dataclass(frozen=True, slots=True)
class IpBlock:
    """An address range as the other side, less its exceptions. Canonical CIDR text."""

    cidr: str
    excepts: tuple[str, ...] = ()


Peer = PodPeer | IpBlock


@dataclass(frozen=True, slots=True)
class PolicyPort:
    """Ports a rule allows. `port` None: all of the protocol; text: the name of a container port; `end` closes a range."""

    protocol: str = "TCP"
    port: int | str | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One allow rule. No peers: any peer. No ports: any port and any protocol."""

    peers: tuple[Peer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What the selected pods of its namespace may receive and send, for the directions in `types`."""

    meta: Meta
    pods: Selector
    types: frozenset[str]
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterNetworkPolicy:
    """A policy of the cluster's administrator (policy.networking.k8s.io). Carried and shown; not enforced."""

    meta: Meta
    tier: str = ""
    priority: int = 0
