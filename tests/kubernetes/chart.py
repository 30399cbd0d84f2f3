"""The subset of Helm's templates that our chart keeps to: a value, quoted or as JSON, with or without its checksum."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

_ACTION = re.compile(r"\{\{(.*?)\}\}")
_KNOWN = re.compile(r" (toJson )?\.((?:Values|Release|Chart)(?:\.[A-Za-z]\w*)+)( \| sha256sum)? ")


def render(chart: Path, namespace: str, values: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The objects of the templates; `values` are laid over the defaults. Raises ValueError for other template language."""
    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    scope = {
        "Values": merged(defaults, values or {}),
        "Release": {"Namespace": namespace},
        "Chart": yaml.safe_load((chart / "Chart.yaml").read_text()),
    }
    files = sorted((chart / "templates").iterdir())
    return [item for file in files for item in yaml.safe_load_all(_ACTION.sub(lambda m: _value(m[1], scope), file.read_text()))]


def merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Maps are merged, everything else is replaced."""
    both = {name: merged(under[name], value) for name, value in over.items() if _maps(under.get(name), value)}
    return {**under, **over, **both}


def _maps(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _value(action: str, scope: dict[str, Any]) -> str:
    known = _KNOWN.fullmatch(action)
    if known is None:
        raise ValueError(f"{{{{{action}}}}} is more than the chart may use")
    found: Any = scope
    for name in known[2].split("."):
        found = found[name]
    if not known[1] and isinstance(found, (dict, list)):
        raise ValueError(f"{known[2]} is printed as Go prints maps and lists; use toJson")
    # As Go's encoder: sorted keys, no spaces.
    text = json.dumps(found, sort_keys=True, separators=(",", ":")) if known[1] else str(found)
    return sha256(text.encode()).hexdigest() if known[3] else text
