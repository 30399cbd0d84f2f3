"""Policies prepared for compiling: who a rule's peers are, as terms that can be indexed, and what the rule allows them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from fairway_core.model import IpBlock, NetworkPolicy, PodPort, PolicyPort, Rule
from fairway_core.model.policy import EGRESS, INGRESS
from fairway_core.selectors import IN, Selector
from fairway_policy.identity import Identity
from fairway_policy.permit import Permit, named, numeric

DIRECTIONS = (EGRESS, INGRESS)
Bucket = tuple[str, ...]
"""Where a term is filed: an identity can match it only if the identity lies in the same bucket."""
Word = tuple[str, str, str]
"""(kind, namespace or "" for all, text) of one thing a policy distinguishes; see `words`."""

NAME_LABEL = "kubernetes.io/metadata.name"
"""Every namespace has it, and it says no more than the namespace's name: part of every identity, so never a word."""
LABEL, NAMESPACE_LABEL, PORT, BLOCK = "label", "namespace-label", "port", "block"
IN_NAMESPACE, ANY = "in-namespace", "any"


@dataclass(frozen=True, slots=True)
class PodTerm:
    """Pods by labels; `namespace` is set where the peer has no namespaceSelector."""

    namespace: str
    namespaces: Selector | None
    pods: Selector | None

    def matches(self, identity: Identity) -> bool:
        return (not self.namespace or identity.namespace == self.namespace) and identity.matches(self.pods, self.namespaces)

    @property
    def bucket(self) -> Bucket:
        if self.namespace:
            return bucket_in(self.namespace, self.pods)
        return _pair_bucket((LABEL,), self.pods) or _pair_bucket((NAMESPACE_LABEL,), self.namespaces) or (ANY,)


@dataclass(frozen=True, slots=True)
class BlockTerm:
    """Pods whose address lies in a block and in none of its exceptions."""

    block: IpBlock

    def matches(self, identity: Identity) -> bool:
        return self.block.cidr in identity.blocks and not any(cidr in identity.blocks for cidr in self.block.excepts)

    @property
    def bucket(self) -> Bucket:
        return (BLOCK, self.block.cidr)


@dataclass(frozen=True, slots=True)
class NamedPortTerm:
    """Pods that have a port of this name: peers of an egress rule for everybody whose ports are names."""

    name: str

    def matches(self, identity: Identity) -> bool:
        return any(port.name == self.name for port in identity.ports)

    @property
    def bucket(self) -> Bucket:
        return (PORT, self.name)


Term = PodTerm | BlockTerm | NamedPortTerm


def bucket_in(namespace: str, pods: Selector | None) -> Bucket:
    """The bucket of pods of one namespace: of a label pair there, if the selector insists on one."""
    return _pair_bucket((IN_NAMESPACE, namespace), pods) or (IN_NAMESPACE, namespace)


def _pair_bucket(head: Bucket, selector: Selector | None) -> Bucket:
    """The bucket of a label pair the selector insists on, if it does."""
    for item in selector.requirements if selector else ():
        if item.operator == IN and len(item.values) == 1:
            return (*head, item.key, item.values[0])
    return ()


def buckets_of(identity: Identity) -> Iterator[Bucket]:
    """Every bucket an identity lies in."""
    yield (ANY,)
    yield (IN_NAMESPACE, identity.namespace)
    for key, value in identity.labels:
        yield (LABEL, key, value)
        yield (IN_NAMESPACE, identity.namespace, key, value)
    for key, value in identity.namespace_labels:
        yield (NAMESPACE_LABEL, key, value)
    for cidr in identity.blocks:
        yield (BLOCK, cidr)
    for name in {port.name for port in identity.ports}:
        yield (PORT, name)


@dataclass(frozen=True, slots=True)
class PreparedRule:
    """One allow rule. `open` rules have no peers: they allow everybody `fixed`."""

    open: bool
    terms: tuple[Term, ...]
    blocks: tuple[IpBlock, ...]
    fixed: Permit
    ports: tuple[PolicyPort, ...]

    def permit(self, container_ports: tuple[PodPort, ...]) -> Permit:
        """What is allowed towards a destination with these named ports."""
        return self.fixed | named(self.ports, container_ports) if self.ports else self.fixed


@dataclass(frozen=True, slots=True)
class PreparedPolicy:
    """A policy with its terms. `rules` has an entry exactly for the directions the policy isolates."""

    namespace: str
    pods: Selector
    rules: dict[str, tuple[PreparedRule, ...]] = field(default_factory=dict)

    @property
    def bucket(self) -> Bucket:
        """Where it is filed: it selects only identities that lie there."""
        return bucket_in(self.namespace, self.pods)

    def selects(self, identity: Identity) -> bool:
        return identity.namespace == self.namespace and identity.matches(self.pods, None)

    def terms(self) -> set[Term]:
        return {term for rules in self.rules.values() for rule in rules for term in rule.terms}

    def words(self) -> Iterator[Word]:
        """Everything of a pod that the policy looks at: what identities must therefore keep apart.

        Labels and ports are words of one namespace where only its pods can be meant, so one tenant's policies do not split
        another tenant's identities.
        """
        for key in self.pods.keys:
            yield (LABEL, self.namespace, key)
        for direction, rules in self.rules.items():
            scope = self.namespace if direction == INGRESS else ""
            for rule in rules:
                for port in rule.ports:
                    yield (PORT, scope, str(port.port))
                for term in rule.terms:
                    yield from _words_of(term)


def _words_of(term: Term) -> Iterator[Word]:
    if isinstance(term, PodTerm):
        for key in term.pods.keys if term.pods else ():
            yield (LABEL, term.namespace, key)
        for key in term.namespaces.keys - {NAME_LABEL} if term.namespaces else ():
            yield (NAMESPACE_LABEL, "", key)
    elif isinstance(term, BlockTerm):
        for cidr in (term.block.cidr, *term.block.excepts):
            yield (BLOCK, "", cidr)


def prepare(policy: NetworkPolicy) -> PreparedPolicy:
    """Bring a policy into the form the compiler works on. Raises ValueError for a CIDR that is none."""
    written = {INGRESS: policy.ingress, EGRESS: policy.egress}
    namespace = policy.meta.namespace
    rules = {
        direction: tuple(_rule(rule, namespace, direction) for rule in written[direction])
        for direction in DIRECTIONS
        if direction in policy.types
    }
    return PreparedPolicy(namespace, policy.pods, rules)


def _rule(rule: Rule, namespace: str, direction: str) -> PreparedRule:
    ports = tuple(port for port in rule.ports if isinstance(port.port, str))
    terms: list[Term] = [
        BlockTerm(peer)
        if isinstance(peer, IpBlock)
        else PodTerm("" if peer.namespaces is not None else namespace, peer.namespaces, peer.pods)
        for peer in rule.peers
    ]
    if not rule.peers and direction == EGRESS:
        # For everybody, yet the number behind a name differs from pod to pod.
        terms += [NamedPortTerm(name) for name in sorted({str(port.port) for port in ports})]
    blocks = tuple(peer for peer in rule.peers if isinstance(peer, IpBlock))
    return PreparedRule(not rule.peers, tuple(terms), blocks, numeric(rule.ports), ports)
