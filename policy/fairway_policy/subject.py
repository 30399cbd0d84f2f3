"""One isolated identity in one direction: what it allows to everybody, to the world, and to each peer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fairway_core.model import IpBlock, PodPort
from fairway_core.model.policy import INGRESS
from fairway_policy.cidr import WorldPermit, world_permit
from fairway_policy.identity import Identity
from fairway_policy.permit import Permit, union
from fairway_policy.rules import PreparedRule


class SubjectPermits:
    """The union of the rules that apply to a subject. `base` is what its rules without peers allow, apart from port names
    that only a peer can resolve; a peer's permit always covers it.
    """

    def __init__(self, identity: Identity, direction: str, rules: Sequence[PreparedRule]) -> None:
        self.rules = rules
        self._receives = direction == INGRESS
        self._own_ports = identity.ports
        self._memo: dict[tuple[frozenset[int], tuple[PodPort, ...]], Permit] = {}
        self.base = union(self._without_peer(rule) for rule in rules if rule.open)

    def _without_peer(self, rule: PreparedRule) -> Permit:
        """Port names are resolved on the destination: the subject itself for ingress, nobody known for egress to the world."""
        return rule.permit(self._own_ports if self._receives else ())

    def world(self) -> WorldPermit:
        """What addresses of no pod may use."""
        return world_permit(self.base, self._blocks())

    def _blocks(self) -> Iterator[tuple[IpBlock, Permit]]:
        for rule in self.rules:
            for block in rule.blocks:
                yield block, self._without_peer(rule)

    def pair(self, positions: set[int], peer: Identity) -> Permit | None:
        """What a peer may use that the rules at `positions` match; None if that is no more than `base`."""
        ports = self._own_ports if self._receives else peer.ports
        memo_key = frozenset(positions), ports
        allowed = self._memo.get(memo_key)
        if allowed is None:
            allowed = self.base | union(self.rules[position].permit(ports) for position in positions)
            self._memo[memo_key] = allowed
        return None if allowed == self.base else allowed
