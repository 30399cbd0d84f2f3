"""Who is subject to which policy and who matches which term, kept up to date one identity or one policy at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Generic, TypeVar

from fairway_core.keys import Key
from fairway_policy.identity import Identity
from fairway_policy.rules import Bucket, PreparedPolicy, PreparedRule, Term, buckets_of

K = TypeVar("K")
V = TypeVar("V")


class MultiMap(Generic[K, V]):
    """Keys to sets of values; an empty set takes no room."""

    def __init__(self) -> None:
        self._sets: dict[K, set[V]] = {}

    def add(self, key: K, value: V) -> None:
        self._sets.setdefault(key, set()).add(value)

    def discard(self, key: K, value: V) -> None:
        values = self._sets.get(key)
        if values is not None:
            values.discard(value)
            if not values:
                del self._sets[key]

    def pop(self, key: K) -> set[V]:
        """Remove a key; returns the values it had."""
        return self._sets.pop(key, set())

    def __getitem__(self, key: K) -> set[V]:
        return self._sets.get(key, set())

    def __contains__(self, key: K) -> bool:
        return key in self._sets


class Relations:
    """Policies, identities, and the two relations between them.

    Promise: adding or removing an identity costs time in the policies and terms filed in its buckets; adding or removing a
    policy costs time in the identities filed in its own bucket and those of its terms.
    """

    def __init__(self) -> None:
        self._policies: dict[Key, PreparedPolicy] = {}
        self._identities: dict[int, Identity] = {}
        self._policies_in: MultiMap[Bucket, Key] = MultiMap()
        self._subjects: MultiMap[Key, int] = MultiMap()
        self._selecting: MultiMap[int, Key] = MultiMap()
        self._users: MultiMap[Term, Key] = MultiMap()
        self._matched: MultiMap[Term, int] = MultiMap()
        self._terms_in: MultiMap[Bucket, Term] = MultiMap()
        self._identities_in: MultiMap[Bucket, int] = MultiMap()

    def policy(self, key: Key) -> PreparedPolicy | None:
        """The policy as prepared, if there is one of this key."""
        return self._policies.get(key)

    def identity(self, number: int) -> Identity:
        """The identity behind a number. Raises KeyError."""
        return self._identities[number]

    def __contains__(self, number: int) -> bool:
        return number in self._identities

    def add_identity(self, number: int, identity: Identity) -> set[int]:
        """Returns the subjects some rule of which has a term that matches the new identity."""
        self._identities[number] = identity
        concerned: set[int] = set()
        for bucket in buckets_of(identity):
            for key in self._policies_in[bucket]:
                if self._policies[key].selects(identity):
                    self._subjects.add(key, number)
                    self._selecting.add(number, key)
            self._identities_in.add(bucket, number)
            for term in self._terms_in[bucket]:
                if term.matches(identity):
                    self._matched.add(term, number)
                    concerned.update(*(self._subjects[key] for key in self._users[term]))
        return concerned

    def remove_identity(self, number: int) -> None:
        """Forget an identity that no address has."""
        identity = self._identities.pop(number)
        for key in self._selecting.pop(number):
            self._subjects.discard(key, number)
        for bucket in buckets_of(identity):
            self._identities_in.discard(bucket, number)
            for term in self._terms_in[bucket]:
                self._matched.discard(term, number)

    def add_policy(self, key: Key, policy: PreparedPolicy) -> set[int]:
        """Returns the subjects of the new policy."""
        self._policies[key] = policy
        self._policies_in.add(policy.bucket, key)
        for number in self._identities_in[policy.bucket]:
            if policy.selects(self._identities[number]):
                self._subjects.add(key, number)
                self._selecting.add(number, key)
        for term in policy.terms():
            if term not in self._users:
                self._add_term(term)
            self._users.add(term, key)
        return set(self._subjects[key])

    def _add_term(self, term: Term) -> None:
        self._terms_in.add(term.bucket, term)
        for number in self._identities_in[term.bucket]:
            if term.matches(self._identities[number]):
                self._matched.add(term, number)

    def remove_policy(self, key: Key) -> set[int]:
        """Returns the subjects the policy had; none if there is no such policy."""
        policy = self._policies.pop(key, None)
        if policy is None:
            return set()
        self._policies_in.discard(policy.bucket, key)
        for term in policy.terms():
            self._users.discard(term, key)
            if term not in self._users:
                self._terms_in.discard(term.bucket, term)
                self._matched.pop(term)
        subjects = self._subjects.pop(key)
        for number in subjects:
            self._selecting.discard(number, key)
        return subjects

    def rules(self, number: int, direction: str) -> list[PreparedRule] | None:
        """The rules that apply to a subject; None if no policy isolates it in this direction."""
        found: list[PreparedRule] = []
        isolated = False
        for key in self._selecting[number]:
            rules = self._policies[key].rules.get(direction)
            if rules is not None:
                isolated = True
                found += rules
        return found if isolated else None

    def peers(self, rules: Sequence[PreparedRule]) -> dict[int, set[int]]:
        """The identities the rules' terms match, each with the positions of the rules that match it."""
        found: dict[int, set[int]] = defaultdict(set)
        for position, rule in enumerate(rules):
            for term in rule.terms:
                for number in self._matched[term]:
                    found[number].add(position)
        return found

    def matching(self, rules: Sequence[PreparedRule], peer: int) -> set[int]:
        """The positions of the rules one of whose terms matches `peer`."""
        return {position for position, rule in enumerate(rules) if any(peer in self._matched[term] for term in rule.terms)}
