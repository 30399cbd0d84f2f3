"""Shared fixtures. Kernel tests run in namespaces made here; nothing touches the machine's own network."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from fairway_kernel import netns

_serial = itertools.count()


def pytest_configure() -> None:
    """A shell starts background jobs with Ctrl-C ignored, which every program under test would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A kernel test that cannot run must fail loudly, not vanish: only say so up front when not root."""
    if os.geteuid() != 0 and any(item.get_closest_marker("needs_root") for item in items):
        raise pytest.UsageError("these tests make network namespaces: run them as root (sudo ./dev test)")


@pytest.fixture
def namespaces() -> Iterator[Callable[[str], str]]:
    """A factory of fresh network namespaces: `namespaces("node")` gives its path; all are removed afterwards."""
    made: list[str] = []

    def make(hint: str = "ns") -> str:
        name = f"fwt-{os.getpid()}-{next(_serial)}-{hint}"
        made.append(name)
        return netns.create(name)

    yield make
    for name in made:
        netns.delete(name)


@pytest.fixture
def namespace(namespaces: Callable[[str], str]) -> str:
    """The path of one fresh network namespace."""
    return namespaces("one")
