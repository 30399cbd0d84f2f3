"""pytest fixtures: laboratories that are torn down whatever happens, and connectivity matrices.

Promise: inert until a fixture is asked for; loading the plugin imports nothing but pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fairway_netlab.lab import Lab
    from fairway_netlab.matrix import Matrix


@pytest.fixture
def lab() -> Iterator[Callable[[str | dict[str, Any]], Lab]]:
    """A factory of running laboratories: `lab(topology)`, as YAML text or mapping. All of them are taken down afterwards.

    Without a name the topology gets one of its own, so that test processes can run side by side. Needs root.
    """
    from fairway_netlab.session import LabSession

    with LabSession() as session:
        yield session.up


@pytest.fixture
def matrix() -> Callable[[Lab], Matrix]:
    """A factory of connectivity matrices: `matrix(lab).expect_some("a", "b", 80)` … `.check()`."""
    from fairway_netlab.matrix import Matrix

    return Matrix
