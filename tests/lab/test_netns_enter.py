"""Entering a namespace from the event loop: the work is done there, the loop's thread stays where it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fairway_core.errors import KernelError
from fairway_kernel import netns

pytestmark = pytest.mark.needs_root
HERE = "/proc/thread-self/ns/net"


def here() -> tuple[int, int]:
    return netns.identity(HERE)


async def test_work_happens_inside_and_the_loop_stays_outside(namespace: str) -> None:
    before = here()
    inside = await asyncio.gather(*(netns.call_in(namespace, here) for _ in range(20)))
    assert set(inside) == {netns.identity(namespace)}
    assert here() == before != inside[0]
    # No thread that the loop may use again was left inside.
    assert {await asyncio.to_thread(here) for _ in range(20)} == {before}


async def test_a_fault_inside_comes_out_and_changes_nothing(namespace: str, tmp_path: Path) -> None:
    before = here()
    with pytest.raises(ZeroDivisionError):
        await netns.call_in(namespace, lambda: 1 // 0)
    with pytest.raises(KernelError):
        await netns.call_in(str(tmp_path / "none"), here)
    assert here() == before
