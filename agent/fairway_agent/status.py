"""The state of the node in one look."""

from __future__ import annotations

from typing import Any, Protocol

from fairway_agent.live import LiveRevisions
from fairway_agent.problems import Problems
from fairway_agent.reconcile import Reconciler
from fairway_core.keys import KINDS
from fairway_core.world import KIND

FIRST_STATE = "the first state is not live yet"


class Readiness(Protocol):
    """Whether the node is ready, and if not, why."""

    @property
    def ready(self) -> bool: ...

    def reasons(self) -> list[str]:
        """Why the node is not ready; empty if it is."""


class Status:
    """Ready means: the first full state was live in the kernel, and no problem is open that blocks."""

    def __init__(
        self,
        node: str,
        version: str,
        reconciler: Reconciler,
        live: LiveRevisions,
        problems: Problems,
    ) -> None:
        self._node = node
        self._version = version
        self._reconciler = reconciler
        self._live = live
        self._problems = problems

    @property
    def ready(self) -> bool:
        return not self.reasons()

    def reasons(self) -> list[str]:
        """Why the node is not ready; empty if it is."""
        return reasons(self._reconciler, self._problems)

    def as_json(self) -> dict[str, Any]:
        """The body of GET /v1/status."""
        world = self._reconciler.world
        return {
            "node": self._node,
            "version": self._version,
            "revision": world.revision,
            "live": self._live.snapshot(),
            "ready": self.ready,
            "problems": [*_starting(self._reconciler), *self._problems.texts()],
            "unenforced": {
                "counts": self._reconciler.gaps.counts(),
                "objects": self._reconciler.gaps.as_json(),
            },
            "counts": {kind.name: len(world.keys_at(KIND, kind.name)) for kind in KINDS},
        }


def reasons(reconciler: Reconciler, problems: Problems) -> list[str]:
    """Why the node is not ready; empty if it is."""
    return [*_starting(reconciler), *problems.blocking()]


def _starting(reconciler: Reconciler) -> list[str]:
    return [] if reconciler.synced.is_set() else [FIRST_STATE]
