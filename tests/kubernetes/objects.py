"""Objects written to the double as to an API server: created once, merged, deleted; the status apart; Services get addresses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from tests.kubernetes.writes import MERGE, RefusalError

Find = Callable[[str], dict[tuple[str, str], dict[str, Any]] | None]
"""From the path of a collection over all namespaces to its objects by namespace and name."""
STATUS_APART = ("nodes", "pods", "services")
RANGES = "10.96.7.{}", "fd00:10:96::7:{}"


class ObjectWrites:
    """Create, merge-patch and delete of the kinds that the double lists."""

    def __init__(self, find: Find, put: Callable[[Mapping[str, Any]], dict[str, Any]], delete: Callable[[str, str, str], None]):
        self._find, self._put, self._delete = find, put, delete
        self._numbers = itertools.count(1)

    def carry_out(self, method: str, path: str, content_type: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and object. Raises RefusalError, 405 for what is no such write."""
        base, namespace, plural, rest = _parts(path)
        objects = self._find(f"{base}/{plural}")
        if objects is None:
            raise RefusalError(404, "NotFound", f"the server could not find the requested resource {path}")
        document = json.loads(body or b"{}")
        if method == "POST" and not rest:
            return 201, self._create(objects, namespace, plural, document)
        if not rest or (namespace, rest[0]) not in objects:
            raise RefusalError(404, "NotFound", f"{plural} {rest} not found")
        present = objects[namespace, rest[0]]
        if method == "DELETE":
            self._delete(present["kind"], namespace, rest[0])
            return 200, present
        if method == "PATCH" and content_type == MERGE:
            return 200, self._put(_patched(present, document, plural, rest[1:] == ["status"]))
        raise RefusalError(405, "MethodNotAllowed", f"{method} {path}")

    def _create(self, objects: Mapping[Any, Any], namespace: str, plural: str, document: dict[str, Any]) -> dict[str, Any]:
        meta = document["metadata"]
        if namespace and ("", namespace) not in (self._find("/api/v1/namespaces") or {}):
            raise RefusalError(404, "NotFound", f"namespaces {namespace!r} not found")
        if (namespace, meta["name"]) in objects:
            raise RefusalError(409, "AlreadyExists", f"{plural} {meta['name']!r} already exists")
        number = next(self._numbers)
        made = {**document, "metadata": {**meta, **({"namespace": namespace} if namespace else {}), "uid": f"given-{number}"}}
        if plural in STATUS_APART:
            made.pop("status", None)
        if plural == "services" and "clusterIPs" not in made["spec"]:
            addresses = [text.format(number) for text in RANGES]
            made["spec"] = {**made["spec"], "clusterIP": addresses[0], "clusterIPs": addresses}
        return self._put(made)


def _parts(path: str) -> tuple[str, str, str, list[str]]:
    """Group and version, namespace, plural, and what follows."""
    words = path.strip("/").split("/")
    size = 2 if words[0] == "api" else 3
    base, rest = "/" + "/".join(words[:size]), words[size:]
    if rest[:1] == ["namespaces"] and len(rest) > 2 and rest[2] != "status":
        return base, rest[1], rest[2], rest[3:]
    return base, "", rest[0] if rest else "", rest[1:]


def _patched(present: dict[str, Any], patch: dict[str, Any], plural: str, status: bool) -> dict[str, Any]:
    """A merge of the status alone, or of everything else."""
    if plural in STATUS_APART:
        patch = {name: value for name, value in patch.items() if (name == "status") == status}
    return _merged(present, patch)


def _merged(present: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(present) if isinstance(present, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _merged(result.get(name), value)
    return result
