"""Live revisions: waiting for parts to reach a revision."""

from __future__ import annotations

import asyncio
import logging

from fairway_agent.live import DNS, NFT, LiveRevisions
from fairway_agent.problems import Problems


async def test_a_waiter_wakes_when_all_its_parts_are_there() -> None:
    live = LiveRevisions([NFT, DNS])
    waiting = asyncio.create_task(live.wait(3, [NFT, DNS], 5))
    live.advance(NFT, 3)
    await asyncio.sleep(0)
    assert not waiting.done()
    live.advance(DNS, 4)
    assert await waiting


async def test_a_reached_revision_needs_no_wait_and_an_old_one_does_not_go_back() -> None:
    live = LiveRevisions([NFT])
    live.advance(NFT, 5)
    live.advance(NFT, 2)
    assert live.snapshot() == {NFT: 5}
    assert await live.wait(5, [NFT], 0.01)


async def test_waiting_ends_with_its_time() -> None:
    live = LiveRevisions([NFT])
    assert not await live.wait(1, [NFT], 0.01)
    live.advance(NFT, 1)
    assert await live.wait(1, [NFT], 0.01)


def test_problems_are_logged_when_they_open_and_close() -> None:
    records: list[str] = []
    log = logging.Logger("test")
    log.addHandler(handler := logging.Handler())
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    problems = Problems(log)
    problems.report("nft", "broken")
    problems.report("nft", "broken")
    assert problems.texts() == ["broken"]
    problems.clear("nft")
    problems.clear("nft")
    assert problems.texts() == []
    assert records == ["broken", "problem solved"]
