"""What the current policies look at, counted, so that identities are no finer than needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from fairway_core.model import Pod, PodPort
from fairway_core.selectors import Labels
from fairway_policy.cidr import BlockTable
from fairway_policy.identity import Identity, project
from fairway_policy.rules import BLOCK, LABEL, NAME_LABEL, NAMESPACE_LABEL, PORT, Word


class Vocabulary:
    """The words of all current policies, and the identity of an address in these words."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], Counter[str]] = {}
        self._blocks = BlockTable()

    def add(self, words: Iterable[Word]) -> set[Word]:
        """Count `words`; returns those that were not there."""
        return {word for word in words if self._add(word)}

    def _add(self, word: Word) -> bool:
        kind, scope, text = word
        if kind == BLOCK:
            return self._blocks.add(text)
        uses = self._words.setdefault((kind, scope), Counter())
        uses[text] += 1
        return uses[text] == 1

    def discard(self, words: Iterable[Word]) -> set[Word]:
        """Count `words` one less; returns those that are gone."""
        return {word for word in words if self._discard(word)}

    def _discard(self, word: Word) -> bool:
        kind, scope, text = word
        if kind == BLOCK:
            return self._blocks.discard(text)
        uses = self._words[kind, scope]
        uses[text] -= 1
        if uses[text]:
            return False
        del uses[text]
        if not uses:
            del self._words[kind, scope]
        return True

    def _of(self, kind: str, scope: str) -> Mapping[str, int]:
        return self._words.get((kind, scope), {})

    def identity(self, pod: Pod, address: str, namespace_labels: Labels) -> Identity:
        """The identity of one address of a pod, in the words of the current policies."""
        namespace = pod.meta.namespace
        return Identity(
            namespace,
            project(pod.meta.labels, self._of(LABEL, ""), self._of(LABEL, namespace)),
            project(namespace_labels, self._of(NAMESPACE_LABEL, ""), {NAME_LABEL: 1}),
            self._ports(pod.ports, namespace),
            self._blocks.around(address),
        )

    def _ports(self, ports: tuple[PodPort, ...], namespace: str) -> tuple[PodPort, ...]:
        everywhere, here = self._of(PORT, ""), self._of(PORT, namespace)
        return tuple(sorted({port for port in ports if port.name in everywhere or port.name in here}))
