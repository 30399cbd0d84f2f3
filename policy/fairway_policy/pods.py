"""Pods with addresses, and which of them a change of vocabulary or of a namespace can concern."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from fairway_core.keys import Key
from fairway_core.model import Attachment, Pod
from fairway_core.model.meta import FAMILIES, Family, family_of
from fairway_core.world import POD_IP, World
from fairway_policy.cidr import span_of
from fairway_policy.rules import BLOCK, LABEL, PORT, Word


@dataclass(frozen=True, slots=True)
class Placed:
    """A pod as it was last seen, with the identity number of each of its addresses."""

    pod: Pod
    numbers: dict[str, int]


class PodBook:
    """Every pod of the world that has addresses on the pod network, indexed by all that policies may come to look at."""

    def __init__(self) -> None:
        self._pods: dict[Key, Placed] = {}
        self._carriers: dict[tuple[str, str], dict[str, set[Key]]] = defaultdict(dict)
        self._namespaces: dict[str, set[Key]] = {}
        self._addresses: dict[Family, list[tuple[int, Key]]] = {family: [] for family in FAMILIES}

    def get(self, key: Key) -> Placed | None:
        """What is known of the pod."""
        return self._pods.get(key)

    def put(self, key: Key, placed: Placed | None) -> None:
        """Replace what is known of the pod; None forgets it."""
        old = self._pods.pop(key, None)
        if old is not None and (placed is None or placed.pod is not old.pod):
            self._unindex(key, old.pod)
        if placed is not None:
            self._pods[key] = placed
            if old is None or placed.pod is not old.pod:
                self._index(key, placed.pod)

    def _index(self, key: Key, pod: Pod) -> None:
        namespace = pod.meta.namespace
        self._namespaces.setdefault(namespace, set()).add(key)
        for carried in _carried(pod):
            self._carriers[carried].setdefault(namespace, set()).add(key)
        for ip in pod.ips:
            insort(self._addresses[family_of(ip)], (int(ip_address(ip)), key))

    def _unindex(self, key: Key, pod: Pod) -> None:
        namespace = pod.meta.namespace
        _discard(self._namespaces, namespace, key)
        for carried in _carried(pod):
            _discard(self._carriers[carried], namespace, key)
            if not self._carriers[carried]:
                del self._carriers[carried]
        for ip in pod.ips:
            line = self._addresses[family_of(ip)]
            del line[bisect_left(line, (int(ip_address(ip)), key))]

    def namespaces(self) -> list[str]:
        """The namespaces that have pods."""
        return list(self._namespaces)

    def in_namespace(self, namespace: str) -> set[Key]:
        """The pods of one namespace."""
        return set(self._namespaces.get(namespace, ()))

    def concerned(self, words: Iterable[Word]) -> set[Key]:
        """The pods whose identity may change when `words` come into use or fall out of it.

        Not answered here: words about namespace labels, as which namespaces carry them is the world's knowledge.
        """
        return {key for word in words for key in self._concerned(word)}

    def _concerned(self, word: Word) -> Iterator[Key]:
        kind, scope, text = word
        if kind == BLOCK:
            low, high = span_of(text)
            line = self._addresses[family_of(text)]
            first, last = bisect_left(line, low, key=_number), bisect_right(line, high, key=_number)
            yield from (key for _number, key in line[first:last])
        elif kind in (LABEL, PORT):
            namespaces = self._carriers.get((kind, text), {})
            for namespace in [scope] if scope else list(namespaces):
                yield from namespaces.get(namespace, ())


def held(world: World, key: Key, pod: Pod) -> list[str]:
    """The addresses of the pod at `key` that no other pod has a better claim to."""
    return [ip for ip in pod.ips if (holder := world.pod_of_ip(ip)) is not None and holder.meta.key("Pod") == key]


def claimants(before: World, after: World, touched: frozenset[Key]) -> set[Key]:
    """The pods among `touched`, those whose attachments are, and whoever claims an address that one of them has or had."""
    found = {key for key in touched if key.kind == "Pod"}
    for world in (before, after):
        for key in touched:
            item = world.get(key)
            if isinstance(item, Attachment):
                found.add(Key("Pod", item.pod_namespace, item.pod_name))
    for world in (before, after):
        pods = (world.get(key) for key in list(found))
        found |= {other for pod in pods if isinstance(pod, Pod) for ip in pod.ips for other in after.keys_at(POD_IP, ip)}
    return found


def _number(entry: tuple[int, Key]) -> int:
    return entry[0]


def _carried(pod: Pod) -> Iterator[tuple[str, str]]:
    for label in pod.meta.labels:
        yield (LABEL, label)
    for name in {port.name for port in pod.ports}:
        yield (PORT, name)


def _discard(buckets: dict[str, set[Key]], name: str, key: Key) -> None:
    buckets[name].discard(key)
    if not buckets[name]:
        del buckets[name]
