"""What is remembered of a running laboratory, so that any process can use it or take it down.

`DIRECTORY/state.json` is written before anything is made: from its topology alone every name follows (plan.py). Its presence
is what makes a directory ours to delete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairway_core.errors import ConflictError, NotFoundError, Place, UserError
from fairway_netlab.plan import LabPlan, plan_lab
from fairway_netlab.topology import Topology, topology_from

FILE = "state.json"


@dataclass(slots=True)
class LabState:
    """`addresses` are those the CNI plugin gave, by the title of the container."""

    topology: Topology
    root: Path
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def plan(self) -> LabPlan:
        return plan_lab(self.topology, self.root)

    @property
    def directory(self) -> Path:
        return self.root / self.topology.name

    def claim(self) -> None:
        """Make the directory and the file. Raises ConflictError if the laboratory exists."""
        try:
            self.directory.mkdir(parents=True, mode=0o755)
        except FileExistsError as error:
            name = self.topology.name
            raise ConflictError(f"laboratory {name} is up already; take it down with: fairway lab down {name}") from error
        self.save()

    def save(self) -> None:
        """Write the file; a reader sees the old or the new one, never half of it."""
        text = json.dumps({"topology": self.topology.model_dump(), "addresses": self.addresses}, indent=1)
        draft = self.directory / f".{FILE}"
        draft.write_text(text)
        draft.replace(self.directory / FILE)


def load_state(name: str, root: Path) -> LabState:
    """The state of a laboratory. Raises NotFoundError, UserError if the file was damaged."""
    try:
        stored: Mapping[str, Any] = json.loads((root / name / FILE).read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"there is no laboratory {name} in {root}") from error
    except ValueError as error:
        raise UserError("is not the state of a laboratory", Place(str(root / name / FILE))) from error
    addresses = {title: tuple(items) for title, items in stored["addresses"].items()}
    return LabState(topology_from(stored["topology"]), root, addresses)


def list_states(root: Path) -> list[LabState]:
    """All laboratories under `root`, by name."""
    return [load_state(path.parent.name, root) for path in sorted(root.glob(f"*/{FILE}"))]
