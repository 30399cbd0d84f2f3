"""LabelSelector (meta/v1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.base import ApiObject
from fairway_core.documents.schema.text import LabelKey, LabelValue


class Requirement(ApiObject):
    """One matchExpression. In and NotIn need values, Exists and DoesNotExist must have none."""

    key: LabelKey
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[LabelValue] | None = None

    def rules(self) -> Iterator[Fault]:
        if self.operator in ("In", "NotIn") and not self.values:
            yield Fault(("values",), f"operator {self.operator} needs at least one value")
        if self.operator in ("Exists", "DoesNotExist") and self.values:
            yield Fault(("values",), f"operator {self.operator} takes no values")


class LabelSelector(ApiObject):
    """matchLabels and matchExpressions are ANDed; the empty selector matches everything."""

    matchLabels: dict[LabelKey, LabelValue] | None = None
    matchExpressions: list[Requirement] | None = None
