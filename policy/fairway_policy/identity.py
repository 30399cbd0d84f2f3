"""Identity: the class of addresses that nothing in the current policies can tell apart, and the numbers of identities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairway_core.errors import ExhaustedError
from fairway_core.model import PodPort
from fairway_core.selectors import Labels, Selector

LAST_NUMBER = (1 << 31) - 1
"""Numbers above this are profile ids, so that the two can share one register."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Everything a policy can see of a pod's address, and nothing else. Tuples are sorted.

    `labels`, `namespace_labels` and `ports` are cut down to keys and names that policies use; `blocks` are the CIDRs in use,
    exceptions included, that contain the address. Two addresses of one pod may have different identities.
    """

    namespace: str
    labels: tuple[tuple[str, str], ...] = ()
    namespace_labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[PodPort, ...] = ()
    blocks: tuple[str, ...] = ()

    def matches(self, pods: Selector | None, namespaces: Selector | None) -> bool:
        """Whether both selectors hold; None holds always."""
        return (pods is None or pods.matches(dict(self.labels))) and (
            namespaces is None or namespaces.matches(dict(self.namespace_labels))
        )


def project(labels: Labels, *vocabularies: Mapping[str, int]) -> tuple[tuple[str, str], ...]:
    """The labels whose key is in any of the vocabularies, sorted."""
    return tuple(sorted(item for item in labels.items() if any(item[0] in words for words in vocabularies)))


@dataclass(slots=True)
class IdentityTable:
    """Numbers for identities, 1 <= number < 2**31, counted by the addresses that have them.

    A number is not given out again while this table lives (until 2**31 were used), so a late packet or a log line cannot be
    taken for another identity.
    """

    _numbers: dict[Identity, int] = field(default_factory=dict)
    _identities: dict[int, Identity] = field(default_factory=dict)
    _uses: Counter[int] = field(default_factory=Counter)
    _learnt: dict[str, int] = field(default_factory=dict)
    _next: int = 1

    def learn(self, numbers: Mapping[str, int]) -> None:
        """Prefer these numbers for these addresses, and give none of them to anything else."""
        self._learnt = dict(numbers)
        self._next = max(self._next, max(numbers.values(), default=0) + 1)

    def forget_learnt(self) -> None:
        """End of adoption: addresses seen from now on are new."""
        self._learnt = {}

    def acquire(self, identity: Identity, address: str) -> tuple[int, bool]:
        """The identity's number with one more use, and whether it is new. Raises ExhaustedError after 2**31 identities."""
        number = self._numbers.get(identity)
        born = number is None
        if number is None:
            number = self._learnt.get(address, 0)
            if not number or number in self._identities:
                number = self._fresh()
            self._numbers[identity] = number
            self._identities[number] = identity
        self._uses[number] += 1
        return number, born

    def _fresh(self) -> int:
        if self._next > LAST_NUMBER:
            raise ExhaustedError("policy identities: all 2147483647 numbers were used; restart the agent to start over")
        self._next += 1
        return self._next - 1

    def release(self, number: int) -> bool:
        """One use less; True if that was the last. The number then still answers `identity` until `drop`."""
        self._uses[number] -= 1
        return self._uses[number] == 0

    def used(self, number: int) -> bool:
        """Whether any address has the identity."""
        return self._uses[number] > 0

    def drop(self, number: int) -> None:
        """Forget an unused identity."""
        del self._numbers[self._identities.pop(number)]
        del self._uses[number]

    def identity(self, number: int) -> Identity:
        """The identity behind a number in use. Raises KeyError."""
        return self._identities[number]

    def numbers(self) -> list[int]:
        """All numbers in use."""
        return list(self._identities)

    def __len__(self) -> int:
        return len(self._identities)
