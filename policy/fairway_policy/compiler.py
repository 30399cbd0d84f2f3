"""The policy compiler: world changes in, nft elements out, at a cost in proportion to the change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fairway_core.delta import Delta, Owner
from fairway_core.keys import Key
from fairway_core.model import NetworkPolicy, Pod
from fairway_core.model.meta import family_of
from fairway_core.world import World
from fairway_kernel.nft.objects import Elements, ElementValue, Layout, Slot
from fairway_policy.adopt import learnt_numbers, learnt_profiles
from fairway_policy.identity import IdentityTable
from fairway_policy.layout import FAMILY_SETS, policy_layout
from fairway_policy.pods import Placed, PodBook, claimants, held
from fairway_policy.profile import ProfileTable
from fairway_policy.reach import Reach
from fairway_policy.relations import Relations
from fairway_policy.rules import DIRECTIONS, NAMESPACE_LABEL, PreparedPolicy, Word, prepare
from fairway_policy.subject import SubjectPermits
from fairway_policy.tables import IdentityTables, Subject
from fairway_policy.tightening import Rights, takes_rights_away
from fairway_policy.vocabulary import Vocabulary


class PolicyCompiler:
    """Implements `fairway_kernel.nft.compiler.Compiler` for NetworkPolicy v1, both directions, both families.

    Costs: a pod of a known identity is a handful of elements; a new identity its own pairs; a policy its subjects and their
    pairs, and the pods that a label, port name or block never used before newly tells apart. Not thread safe.
    """

    def __init__(self) -> None:
        self._layout = policy_layout()
        self._vocabulary = Vocabulary()
        self._identities = IdentityTable()
        self._pods = PodBook()
        self._relations = Relations()
        self._profiles = ProfileTable()
        self._tables = IdentityTables(self._profiles)
        self._permits: dict[Subject, SubjectPermits] = {}
        self._started = False
        self._reach: Reach | None = None

    @property
    def layout(self) -> Layout:
        """See `Compiler.layout`."""
        return self._layout

    def learn(self, actual: Elements) -> None:
        """See `Compiler.learn`. Elements of other components are ignored. Raises TypeError for elements not in canonical form."""
        self._identities.learn(learnt_numbers(actual))
        self._profiles.learn(learnt_profiles(actual))

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        """See `Compiler.update`. Owners: ("policy", "address", namespace, pod), ("policy", "subject", direction, identity),
        ("policy", "pair", source, destination), ("policy", "profile", id).
        """
        if self._started:
            self._profiles.settle()
        policies = sorted(key for key in touched if key.kind == "NetworkPolicy")
        prepared = _prepare(after, policies)
        dirty, words = self._remove_policies(policies)
        added = {word for policy in prepared.values() for word in self._vocabulary.add(policy.words())}
        out, born, dead = self._place(after, self._concerned(before, after, touched, words ^ added))
        pairs: set[tuple[int, int]] = set()
        for number in sorted(born):
            dirty.add(number)
            pairs.update((subject, number) for subject in self._relations.add_identity(number, self._identities.identity(number)))
        for key in prepared:
            dirty |= self._relations.add_policy(key, prepared[key])
        self._bury(dead)
        self._refresh(dirty, pairs)
        self._identities.forget_learnt()
        self._started = True
        out.update(self._tables.take_changes())
        if self._reach is not None:
            self._reach.note(out)
        return out

    def reach(self) -> Reach:
        """Who reaches whom as of the latest `update`. Whoever asks for it takes the changes it gathers from then on."""
        if self._reach is None:
            self._reach = Reach(self._pods, self._tables, self._profiles)
        return self._reach

    def tightens(self, delta: Delta[Slot, ElementValue]) -> bool:
        """Whether committing `delta`, the difference up to the latest `update`, takes rights from anybody, so that the
        generation must be bumped afterwards. May say True without need, never False wrongly.
        """
        return takes_rights_away(delta, Rights(self._tables, self._profiles))

    def _remove_policies(self, keys: Iterable[Key]) -> tuple[set[int], set[Word]]:
        """Take out the old form of the touched policies; returns their subjects and the words gone with them."""
        dirty: set[int] = set()
        gone: set[Word] = set()
        for key in keys:
            old = self._relations.policy(key)
            if old is not None:
                gone |= self._vocabulary.discard(old.words())
                dirty |= self._relations.remove_policy(key)
        return dirty, gone

    def _concerned(self, before: World, after: World, touched: frozenset[Key], words: set[Word]) -> set[Key]:
        """The pods to look at again. A word that went and came back within one update is no change."""
        pods = claimants(before, after, touched) | self._pods.concerned(words)
        for key in touched:
            if key.kind == "Namespace":
                pods |= self._pods.in_namespace(key.name)
        labels = {text for kind, _scope, text in words if kind == NAMESPACE_LABEL}
        for namespace in self._pods.namespaces() if labels else ():
            if labels & (before.namespace_labels(namespace).keys() | after.namespace_labels(namespace).keys()):
                pods |= self._pods.in_namespace(namespace)
        return pods

    def _place(self, world: World, keys: set[Key]) -> tuple[dict[Owner, Elements], set[int], set[int]]:
        """Give every address of the pods its identity; returns changed elements, new identities, identities nobody has now."""
        out: dict[Owner, Elements] = {}
        born: set[int] = set()
        released: set[int] = set()
        for key in sorted(keys):
            pod = world.get(key)
            old = self._pods.get(key)
            numbers: dict[str, int] = {}
            if isinstance(pod, Pod) and pod.on_pod_network:
                for ip in held(world, key, pod):
                    identity = self._vocabulary.identity(pod, ip, world.namespace_labels(pod.meta.namespace))
                    numbers[ip], new = self._identities.acquire(identity, ip)
                    born |= {numbers[ip]} if new else set()
                self._pods.put(key, Placed(pod, numbers))
            else:
                self._pods.put(key, None)
            for number in old.numbers.values() if old else ():
                if self._identities.release(number):
                    released.add(number)
            if (old.numbers if old else {}) != numbers:
                out["policy", "address", key.namespace, key.name] = _address_elements(numbers)
        dead = {number for number in released if not self._identities.used(number)}
        return out, born - dead, dead - born

    def _bury(self, dead: set[int]) -> None:
        for number in dead:
            self._tables.remove_identity(number)
            self._relations.remove_identity(number)
            self._identities.drop(number)
            for direction in DIRECTIONS:
                self._permits.pop((direction, number), None)

    def _refresh(self, dirty: set[int], pairs: set[tuple[int, int]]) -> None:
        """Compute dirty subjects in full, and single pairs of the others."""
        for number in dirty:
            if number in self._relations:
                for direction in DIRECTIONS:
                    self._refresh_subject((direction, number))
        for number, peer in pairs:
            if number in self._relations and number not in dirty:
                for direction in DIRECTIONS:
                    self._refresh_pair((direction, number), peer)

    def _refresh_subject(self, subject: Subject) -> None:
        direction, number = subject
        rules = self._relations.rules(number, direction)
        if rules is None:
            self._permits.pop(subject, None)
            self._tables.clear_subject(subject)
            return
        permits = SubjectPermits(self._relations.identity(number), direction, rules)
        self._permits[subject] = permits
        self._tables.set_subject(subject, permits.base, permits.world())
        peers = self._relations.peers(rules)
        for gone in self._tables.peers(subject) - peers.keys():
            self._tables.set_pair(subject, gone, None)
        for peer, positions in peers.items():
            self._tables.set_pair(subject, peer, permits.pair(positions, self._relations.identity(peer)))

    def _refresh_pair(self, subject: Subject, peer: int) -> None:
        permits = self._permits.get(subject)
        if permits is not None:
            positions = self._relations.matching(permits.rules, peer)
            self._tables.set_pair(subject, peer, permits.pair(positions, self._relations.identity(peer)))


def _prepare(world: World, keys: Iterable[Key]) -> dict[Key, PreparedPolicy]:
    found = ((key, world.get(key)) for key in keys)
    return {key: prepare(policy) for key, policy in found if isinstance(policy, NetworkPolicy)}


def _address_elements(numbers: Mapping[str, int]) -> Elements:
    """An address's identity as source and as destination, and the permission to reach the pod's own addresses."""
    elements: dict[Slot, ElementValue] = {}
    for address, number in numbers.items():
        sets = FAMILY_SETS[family_of(address)]
        elements[Slot(sets.source.name, (address,))] = (number,)
        elements[Slot(sets.destination.name, (address,))] = (number,)
        for other in numbers:
            if family_of(other) == family_of(address):
                elements[Slot(sets.self.name, (address, other))] = ()
    return elements
