"""Which revision each part of the node is at: "revision N is live in nft, dns"."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

NFT = "nft"
DNS = "dns"


class LiveRevisions:
    """Revisions per part, and waiters for them. Event-loop only."""

    def __init__(self, parts: Iterable[str], advanced: Callable[[str, int], None] | None = None) -> None:
        """`advanced` is told of every part and revision that becomes live."""
        self._at = dict.fromkeys(parts, 0)
        self._advanced = advanced
        self._waiters: list[tuple[frozenset[str], int, asyncio.Future[None]]] = []

    def snapshot(self) -> dict[str, int]:
        """Part to revision, as a copy."""
        return dict(self._at)

    def advance(self, part: str, revision: int) -> None:
        """Record that `part` is at `revision`; a part never goes back."""
        if revision <= self._at[part]:
            return
        self._at[part] = revision
        if self._advanced is not None:
            self._advanced(part, revision)
        still = []
        for waiter in self._waiters:
            parts, wanted, future = waiter
            if self._reached(parts, wanted):
                if not future.done():
                    future.set_result(None)
            elif not future.done():
                still.append(waiter)
        self._waiters = still

    def _reached(self, parts: Iterable[str], revision: int) -> bool:
        return all(self._at[part] >= revision for part in parts)

    async def wait(self, revision: int, parts: Iterable[str], timeout: float) -> bool:
        """True once all `parts` are at `revision` or later; False when `timeout` seconds are over."""
        wanted = frozenset(parts)
        if self._reached(wanted, revision):
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((wanted, revision, future))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            return False
        return True
