"""Objects that ask for more than is enforced: counted, listed, and told to whoever owns them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairway_core.keys import Key
from fairway_core.unenforced import Gap, unenforced
from fairway_store.api import Document

Tell = Callable[[Key, str, str], None]
"""Called with an object, its uid and what of it is not enforced, in words."""
SHOWN = 100
"""How many objects the status lists; the number is always that of all."""


def tell_nobody(key: Key, uid: str, text: str) -> None:
    """For nodes without a cluster: the status shows it."""


class Gaps:
    """What is not enforced, by object. Event-loop only; costs what an object has, for each object that changes."""

    def __init__(self, tell: Tell = tell_nobody) -> None:
        self._tell = tell
        self._found: dict[Key, tuple[Gap, ...]] = {}

    def see(self, key: Key, document: Document | None) -> None:
        """Take note of an object as it is stored now, or of its end."""
        found = unenforced(document) if document is not None else ()
        before = self._found.pop(key, ())
        if found:
            self._found[key] = found
        for gap in found:
            if gap not in before:
                self._tell(key, _uid(document), f"not enforced: {gap}")

    def counts(self) -> dict[str, int]:
        """How many objects of each kind have gaps."""
        return dict(sorted(Counter(key.kind for key in self._found).items()))

    def as_json(self) -> Sequence[dict[str, Any]]:
        """The first objects and their gaps, for the status."""
        return [
            {
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "gaps": [{"field": gap.field, "reason": gap.reason} for gap in self._found[key]],
            }
            for key in sorted(self._found)[:SHOWN]
        ]


def _uid(document: Document | None) -> str:
    meta = (document or {}).get("metadata")
    uid = meta.get("uid") if isinstance(meta, Mapping) else None
    return uid if isinstance(uid, str) else ""
