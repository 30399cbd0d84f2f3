"""Label selectors as Kubernetes means them (API reference, meta/v1 LabelSelector)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Labels = Mapping[str, str]

IN = "In"
NOT_IN = "NotIn"
EXISTS = "Exists"
DOES_NOT_EXIST = "DoesNotExist"
OPERATORS = frozenset({IN, NOT_IN, EXISTS, DOES_NOT_EXIST})


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """One condition on one label key. `values` is sorted, and empty for Exists and DoesNotExist."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """NotIn and DoesNotExist hold for an object that lacks the key, as in Kubernetes."""
        value = labels.get(self.key)
        if self.operator == IN:
            return value is not None and value in self.values
        if self.operator == NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (self.operator == EXISTS)

    def __str__(self) -> str:
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator.lower()} ({','.join(self.values)})"
        return self.key if self.operator == EXISTS else f"!{self.key}"


@dataclass(frozen=True, slots=True)
class Selector:
    """A conjunction of requirements; the empty selector matches everything. Hashable and in a fixed order."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        """True if every requirement holds for `labels`."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    @property
    def keys(self) -> frozenset[str]:
        """The label keys the answer can depend on."""
        return frozenset(requirement.key for requirement in self.requirements)

    def __str__(self) -> str:
        return ", ".join(map(str, self.requirements)) or "everything"


EVERYTHING = Selector()


def selector_from_labels(labels: Labels) -> Selector:
    """The selector that asks for exactly these pairs (Service.spec.selector, matchLabels)."""
    return Selector(tuple(Requirement(key, IN, (value,)) for key, value in sorted(labels.items())))


def selector_from_document(document: Mapping[str, Any]) -> Selector:
    """Read a LabelSelector document: matchLabels and matchExpressions are ANDed.

    Raises KeyError, TypeError or ValueError for one that Kubernetes would refuse: misread, it could select what it should not.
    """
    pairs = selector_from_labels(document.get("matchLabels") or {}).requirements
    expressions = tuple(_requirement(item) for item in document.get("matchExpressions") or ())
    if not all(isinstance(text, str) for item in (*pairs, *expressions) for text in (item.key, *item.values)):
        raise TypeError("label keys and values are text")
    return Selector(tuple(sorted({*pairs, *expressions})))


def _requirement(item: Mapping[str, Any]) -> Requirement:
    operator, values = item["operator"], item.get("values") or ()
    if operator not in OPERATORS:
        raise ValueError(f"unknown operator {operator!r}; known: {', '.join(sorted(OPERATORS))}")
    if isinstance(values, str) or bool(values) != (operator in (IN, NOT_IN)):
        raise ValueError(f"operator {operator} with values {values!r}")
    return Requirement(item["key"], operator, tuple(sorted(set(values))))
