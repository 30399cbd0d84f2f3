"""Several laboratories with one end: what the pytest fixture `lab` is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from fairway_netlab.lab import Lab, up
from fairway_netlab.plan import DEFAULT_ROOT
from fairway_netlab.topology import Topology, parse_topology, topology_from


class LabSession:
    """Use as a context manager. At its end, or when the process is killed, all its laboratories are removed."""

    def __init__(self, root: Path = DEFAULT_ROOT) -> None:
        self._root = root
        self._labs: list[Lab] = []
        self._count = 0

    def __enter__(self) -> LabSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        faults: list[Exception] = []
        for lab in reversed(self._labs):
            try:
                lab.down()
            except Exception as fault:
                faults.append(fault)
        if faults:
            raise ExceptionGroup("laboratories were not wholly removed", faults)

    def up(self, topology: str | Mapping[str, Any] | Topology) -> Lab:
        """Build one, from YAML text, a mapping or a topology. A mapping without a name gets one of its own."""
        lab = up(self._topology(topology), self._root)
        self._labs.append(lab)
        return lab

    def _topology(self, topology: str | Mapping[str, Any] | Topology) -> Topology:
        if isinstance(topology, Topology):
            return topology
        if isinstance(topology, str):
            return parse_topology("<topology>", topology)
        self._count += 1
        return topology_from({"name": f"t{os.getpid()}-{self._count}", **topology})
