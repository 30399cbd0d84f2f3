"""What a link on the node says about its container, so that the kernel alone can tell whose it is. Pure.

Form: `fairway network=N pod=NAMESPACE/NAME id=CONTAINER`, then ` masquerade=no` and ` completion=no` where that holds. The
kernel takes 254 octets and the zero after them (IFALIASZ); what is longer is cut, and then says nothing any more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fairway_core.model import Attachment

SIZE = 254
_FORM = re.compile(
    r"fairway network=(?P<network>\S+) pod=(?P<namespace>[^\s/]+)/(?P<name>[^\s/]+) id=(?P<id>\S+)"
    r"(?P<masquerade> masquerade=no)?(?P<completion> completion=no)?\Z"
)


@dataclass(frozen=True, slots=True)
class Said:
    """The words of an alias."""

    network: str
    pod_namespace: str
    pod_name: str
    container_id: str
    masquerade: bool = True
    search_completion: bool = True


def alias_of(attachment: Attachment) -> str:
    """The alias of the attachment's link."""
    who = f"{attachment.pod_namespace}/{attachment.pod_name}"
    flags = "" if attachment.masquerade else " masquerade=no"
    flags += "" if attachment.search_completion else " completion=no"
    return f"fairway network={attachment.network} pod={who} id={attachment.container_id}{flags}"[:SIZE]


def read_alias(text: str) -> Said | None:
    """What an alias says; None for one that is not of this form, or was cut."""
    found = _FORM.match(text)
    if found is None or len(text.encode()) >= SIZE:
        return None
    return Said(
        found["network"], found["namespace"], found["name"], found["id"], not found["masquerade"], not found["completion"]
    )  # fmt: skip
