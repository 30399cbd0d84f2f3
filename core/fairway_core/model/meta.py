"""What every object has: name, namespace, labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fairway_core.keys import Key
from fairway_core.selectors import Labels

Family = Literal[4, 6]
FAMILIES: tuple[Family, Family] = (4, 6)


@dataclass(frozen=True, slots=True)
class Meta:
    """Standard object metadata. Mappings are never changed after construction."""

    name: str
    namespace: str = ""
    labels: Labels = field(default_factory=dict)
    annotations: Labels = field(default_factory=dict)
    uid: str = ""

    def key(self, kind: str) -> Key:
        """The object's key, given its kind."""
        return Key(kind, self.namespace, self.name)


def family_of(address: str) -> Family:
    """4 or 6 for an address or CIDR in text form."""
    return 6 if ":" in address else 4
