"""From what a user wrote to documents that can be stored and decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from fairway_core.codec import key_of
from fairway_core.documents.errors import Fault, InvalidDocuments, error_at, shown
from fairway_core.documents.faults import faults_of
from fairway_core.documents.schema import SCHEMAS
from fairway_core.documents.yamlload import Parsed, parse
from fairway_core.errors import Place, UserError
from fairway_core.keys import BY_NAME, Key

NOT_YET = {
    "ClusterNetworkPolicy": "policy.networking.k8s.io",
}
NOT_YOURS = {
    "Attachment": "Attachments are made by Fairway itself",
    "ServiceCIDR": "ServiceCIDRs are an API server's (a node of its own has cluster.serviceCIDRs)",
}
LIST = "List"
_LIST_FIELDS = frozenset({"apiVersion", "kind", "metadata", "items"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A valid document: plain JSON types, nothing filled in but the namespace of a namespaced kind."""

    document: Mapping[str, Any]
    key: Key
    origin: Parsed

    def place(self, *path: str | int) -> Place:
        """Where the field at `path` stands in the input: `loaded.place("spec", "ports", 0)`."""
        return self.origin.place(path)


def validate(source: str, text: str | bytes) -> list[Loaded]:
    """Every object declared in `text`, YAML of any number of documents or JSON; kind List is expanded. `source` names the input.

    Promise: `codec.decode` accepts every result; no key appears twice; time is proportional to the text. Raises InvalidDocuments
    (a UserError) with every fault found, each with file, line, column and field; never anything else.
    """
    loaded: dict[Key, Loaded] = {}
    errors: list[UserError] = []
    for item in parse(source, text):
        for part in _expand(item, errors):
            faults = check(part.value)
            if faults:
                errors.extend(sorted((_at(part, fault) for fault in faults), key=_position))
                continue
            document = with_namespace(part.value)
            result = Loaded(document, key_of(document), part)
            first = loaded.setdefault(result.key, result)
            if first is not result:
                errors.append(_at(part, Fault((), f"{result.key} is declared twice, first at {first.place()}")))
    if errors:
        raise InvalidDocuments(errors)
    return list(loaded.values())


def check_document(document: object) -> None:
    """Apply the same rules to one document that came without a text. Raises InvalidDocuments; places carry the field only."""
    faults = check(document)
    if faults:
        raise InvalidDocuments([error_at("", 0, 0, fault.path, fault.message) for fault in faults])


def with_namespace(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A valid document with its namespace said: "default" for a namespaced kind that leaves it out."""
    metadata = document["metadata"]
    if not BY_NAME[document["kind"]].namespaced or metadata.get("namespace"):
        return document
    return {**document, "metadata": {**metadata, "namespace": "default"}}


def check(value: object) -> list[Fault]:
    """Everything that is wrong with one document; empty if it is valid. Kind List is not expanded here."""
    if not isinstance(value, dict):
        return [Fault((), f"must be an object with apiVersion, kind and metadata, not {shown(value)}")]
    fault = _kind_fault(value)
    if fault is not None:
        return [fault]
    model = SCHEMAS[value["kind"]]
    try:
        model.model_validate(value)
    except ValidationError as error:
        return faults_of(model, error)
    return []


def _kind_fault(value: dict[str, Any]) -> Fault | None:
    name, version = value.get("kind"), value.get("apiVersion")
    if not isinstance(name, str) or not name:
        return Fault(("kind",), "is required" if name is None else f"must be text, not {shown(name)}")
    if name in NOT_YET:
        return Fault(("kind",), f"{name} ({NOT_YET[name]}) is not supported by this version")
    if name in NOT_YOURS:
        return Fault(("kind",), f"{NOT_YOURS[name]} and cannot be declared")
    if name not in SCHEMAS:
        close = get_close_matches(name[:64], SCHEMAS, 1) or get_close_matches(name[:64].title(), SCHEMAS, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"known kinds: {', '.join(sorted(SCHEMAS))}"
        return Fault(("kind",), f"unknown kind {shown(name)}; {hint}")
    wanted = BY_NAME[name].api_version
    if version != wanted:
        wrong = "is required" if version is None else f"{shown(version)} is wrong"
        return Fault(("apiVersion",), f"{wrong}: {name} is of {wanted}")
    return None


def _expand(item: Parsed, errors: list[UserError]) -> Iterator[Parsed]:
    """The document itself, or the items of a List."""
    value = item.value
    if not isinstance(value, dict) or value.get("kind") != LIST:
        yield item
        return
    errors.extend(_at(item, fault) for fault in _list_faults(value))
    if isinstance(value.get("items"), list):
        for index in range(len(value["items"])):
            yield from _expand(item.part("items").part(index), errors)


def _list_faults(value: dict[str, Any]) -> Iterator[Fault]:
    if value.get("apiVersion") != "v1":
        yield Fault(("apiVersion",), "List is of v1")
    for name in value.keys() - _LIST_FIELDS:
        yield Fault((name,), f"unknown field {shown(name)}", at_key=True)
    if not isinstance(value.get("items"), list):
        yield Fault(("items",), f"must be a list, not {shown(value.get('items'))}")


def _position(error: UserError) -> tuple[int, int]:
    return (error.place.line, error.place.column) if error.place else (0, 0)


def _at(item: Parsed, fault: Fault) -> UserError:
    return UserError(fault.message, item.place(fault.path, fault.at_key))
