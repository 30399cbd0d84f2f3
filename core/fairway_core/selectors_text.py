"""Label selectors as typed on a command line: `app=web,tier!=db,env in (a,b),!legacy,team`."""

from __future__ import annotations

import re

from fairway_core.errors import UserError
from fairway_core.selectors import DOES_NOT_EXIST, EXISTS, IN, NOT_IN, Requirement, Selector

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"[-A-Za-z0-9_.]*"
_SET = re.compile(rf"^({_KEY})\s+(in|notin)\s+\(([^()]*)\)$")
_EQUALITY = re.compile(rf"^({_KEY})\s*(==|=|!=)\s*({_VALUE})$")
_PRESENCE = re.compile(rf"^(!?)\s*({_KEY})$")


def parse_selector(text: str) -> Selector:
    """The selector `text` means (Kubernetes documentation, "Labels and Selectors"). Raises UserError naming the bad part."""
    # Commas inside parentheses separate values, not requirements.
    parts = [part.strip() for part in re.split(r",(?![^()]*\))", text)] if text.strip() else []
    return Selector(tuple(sorted({_requirement(part) for part in parts})))


def _requirement(part: str) -> Requirement:
    if match := _SET.match(part):
        values = tuple(sorted({value.strip() for value in match[3].split(",")}))
        return Requirement(match[1], IN if match[2] == "in" else NOT_IN, values)
    if match := _EQUALITY.match(part):
        return Requirement(match[1], NOT_IN if match[2] == "!=" else IN, (match[3],))
    if match := _PRESENCE.match(part):
        return Requirement(match[2], DOES_NOT_EXIST if match[1] else EXISTS)
    raise UserError(f"label selector: {part!r} is not understood")
