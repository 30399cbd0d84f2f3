"""A node with an agent that the tests of one file share, and containers of their own for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from tests.lab.caller import Container, NewContainer

from fairway_netlab.lab import Lab
from fairway_netlab.session import LabSession

CIDRS = ["10.244.0.0/24", "fd00:10:244::/64"]


@pytest.fixture(scope="module")
def spec_lab() -> Iterator[Lab]:
    """One node `n1`, dual stack, with a running agent and no containers."""
    with LabSession() as session:
        yield session.up({"nodes": [{"name": "n1", "podCIDRs": CIDRS}]})


@pytest.fixture
def container(spec_lab: Lab, namespaces: Callable[[str], str]) -> Iterator[NewContainer]:
    """A factory of containers with a namespace each; what is still attached at the end goes."""
    made: list[Container] = []

    def make() -> Container:
        made.append(Container(spec_lab, namespaces("c")))
        return made[-1]

    yield make
    if made:
        made[0].call("GC", {"cni.dev/valid-attachments": []})
