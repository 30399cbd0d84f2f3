"""Asking the helpers inside containers to probe."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fairway_netlab.processes import LabError

State = Literal["open", "refused", "unreachable", "timeout", "no-name"]


@dataclass(frozen=True, slots=True)
class Target:
    """What to connect to. `host` is an address or a name for the source's own resolver; `family` 4, 6, or 0 for either."""

    host: str
    port: int
    protocol: Literal["TCP", "UDP"] = "TCP"
    family: Literal[0, 4, 6] = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. `name` is who answered and `seen` the source address it saw (both empty if it is no helper).

    States: open; refused (reset, or ICMP port unreachable); unreachable (no route, or prohibited by ICMP); timeout;
    no-name (the name has no address). `ms` is the time it took.
    """

    state: State
    name: str = ""
    seen: str = ""
    ms: float = 0.0

    @property
    def open(self) -> bool:
        return self.state == "open"


def probe_all(questions: Mapping[Path, Sequence[Target]], timeout: float) -> dict[Path, list[Outcome]]:
    """Probe from several containers at once. Keys are their control sockets; `timeout` in seconds is per target.

    Raises LabError if a helper does not answer.
    """
    with ExitStack() as stack:
        # All are asked before the first answer is read: the whole takes as long as the slowest.
        connections = {path: stack.enter_context(_ask(path, targets, timeout)) for path, targets in questions.items()}
        return {path: _answer(path, connection) for path, connection in connections.items()}


def _ask(path: Path, targets: Sequence[Target], timeout: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout + 10)
    try:
        connection.connect(str(path))
        question = {"targets": [asdict(target) for target in targets], "timeout": timeout}
        connection.sendall(json.dumps(question).encode() + b"\n")
    except OSError as error:
        connection.close()
        raise LabError(f"the helper at {path} does not answer: {error}") from error
    return connection


def _answer(path: Path, connection: socket.socket) -> list[Outcome]:
    try:
        with connection.makefile("rb") as stream:
            return [Outcome(**item) for item in json.loads(stream.readline())]
    except (OSError, ValueError) as error:
        raise LabError(f"the helper at {path} gave no answer: {error}") from error
