"""Work on threads: begun once, waited for whatever happens to who waits."""

from __future__ import annotations

import asyncio
import threading

import pytest

from fairway_cni.work import WorkThreads


@pytest.mark.parametrize("waits", [False, True], ids=["other-ends-at-once", "other-waits"])
async def test_work_beside_something_else_is_done_once(waits: bool) -> None:
    begun: list[int] = []

    async def other() -> str:
        if waits:
            await asyncio.sleep(0.01)
        return "value"

    assert await WorkThreads().beside(lambda: begun.append(1), other()) == "value"
    await asyncio.sleep(0.05)
    assert begun == [1]


async def test_the_error_of_the_other_is_raised_when_the_work_is_over() -> None:
    held, over = threading.Event(), threading.Event()

    def work() -> None:
        assert held.wait(5)
        over.set()
        raise ValueError("of the work")

    async def other() -> None:
        await asyncio.sleep(0.01)
        held.set()
        raise KeyError("of the other")

    with pytest.raises(KeyError, match="of the other"):
        await WorkThreads().beside(work, other())
    assert over.is_set()


async def test_a_cancelled_caller_goes_on_when_the_work_is_over() -> None:
    held, over = threading.Event(), threading.Event()

    def work() -> None:
        assert held.wait(5)
        over.set()

    caller = asyncio.ensure_future(WorkThreads().run(work))
    await asyncio.sleep(0.01)
    caller.cancel()
    await asyncio.sleep(0.01)
    assert not caller.done()
    held.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert over.is_set()
