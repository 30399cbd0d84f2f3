"""The base of every object in the schema, and the metadata all kinds share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from fairway_core.documents.errors import Fault
from fairway_core.documents.schema.text import AnnotationKey, DnsLabelOrEmpty, LabelKey, LabelValue

RULES = "rules"


class ApiObject(BaseModel):
    """An object of the Kubernetes API: the fields that mean something to Fairway, typed, and the names of the others.

    `accepted` names the fields of the real API that carry no meaning here and may hold anything; whatever is neither is refused.
    Fields keep the API's spelling; null counts as absent, as in Kubernetes.
    """

    model_config = ConfigDict(extra="forbid", strict=True)
    accepted: ClassVar[frozenset[str]] = frozenset()

    def rules(self) -> Iterator[Fault]:
        """What several fields must satisfy together; paths are relative to this object."""
        return iter(())

    @model_validator(mode="before")
    @classmethod
    def _leave_out_accepted(cls, data: Any) -> Any:
        if not cls.accepted or not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if name not in cls.accepted}

    @model_validator(mode="after")
    def _check_rules(self) -> ApiObject:
        faults = list(self.rules())
        if faults:
            raise PydanticCustomError(RULES, "rules", {"faults": faults})
        return self


def names(text: str) -> frozenset[str]:
    """Field names separated by white space."""
    return frozenset(text.split())


def duplicates(values: list[Any]) -> Iterator[int]:
    """Indexes of values that appeared before."""
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            yield index
        seen.add(value)


class ObjectMeta(ApiObject):
    """metadata (meta/v1 ObjectMeta). Which names are valid depends on the kind; subclasses say it."""

    accepted = names(
        "creationTimestamp deletionGracePeriodSeconds finalizers generateName generation managedFields "
        "ownerReferences resourceVersion selfLink"
    )
    name: str
    namespace: DnsLabelOrEmpty | None = None
    labels: dict[LabelKey, LabelValue] | None = None
    annotations: dict[AnnotationKey, str] | None = None
    uid: str | None = None
    deletionTimestamp: str | None = None


class ClusterMeta(ObjectMeta):
    """Metadata of a kind without namespaces."""

    def rules(self) -> Iterator[Fault]:
        if self.namespace:
            yield Fault(("namespace",), "this kind has no namespace", at_key=True)
