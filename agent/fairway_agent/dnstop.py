"""`fairway top dns`: who asks what, how often, over the last seconds, all workers together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from fairway_core.clock import Clock
from fairway_core.errors import UserError
from fairway_dns.feed import ZoneFeed

WATCH_SECONDS = 10.0
"""For how long one look keeps the workers counting, so that the next look finds something."""
FIRST_SECONDS = 2.5
"""How long the first look waits for something to show."""
ENOUGH = 0.8
"""Seconds that what is shown must cover; a worker's first report may come at once."""
STEP = 0.05
WAYS = ("", "pod", "name", "zone")


class DnsTop:
    """Event-loop only."""

    def __init__(self, feed: ZoneFeed, clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._until = 0.0

    async def rows(self, by: str, count: int, title_of: Callable[[str], str], zone_of: Callable[[str], str]) -> dict[str, Any]:
        """The `count` most frequent as JSON values: `{"seconds", "qps", "rows": [{"pod", "name", "type", "rate", "share"}]}`;
        what is summed up is empty. `rate` is per second, `share` of all queries. Raises UserError for an unknown way to sum up.
        """
        if by not in WAYS:
            raise UserError(f"by: {by!r} is none of pod, name, zone")
        await self._look()
        weights: Counter[tuple[str, str, str]] = Counter()
        total = seconds = rate = 0.0
        for tops in self._feed.tops():
            span = sum(top.seconds for top in tops)
            seconds, total = max(seconds, span), total + sum(top.total for top in tops)
            rate += sum(top.total for top in tops) / span if span else 0.0
            for source, name, rtype, weight in (row for top in tops for row in top.rows):
                weights[_key(by, title_of(source), name, rtype, zone_of)] += weight
        found = [_row(key, weight, total, rate) for key, weight in weights.most_common(count)]
        return {"seconds": round(seconds, 1), "qps": round(rate, 1), "rows": found}

    async def _look(self) -> None:
        """Keep the workers counting; the first time, wait until each has told of a second or so."""
        now = self._clock.monotonic()
        fresh, self._until = now >= self._until, now + WATCH_SECONDS
        if fresh:
            self._feed.forget_tops()
        self._feed.watch(WATCH_SECONDS)
        deadline = now + FIRST_SECONDS
        while not self._enough() and self._clock.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(STEP)

    def _enough(self) -> bool:
        return all(sum(top.seconds for top in tops) >= ENOUGH for tops in self._feed.tops())


def _key(by: str, pod: str, name: str, rtype: str, zone_of: Callable[[str], str]) -> tuple[str, str, str]:
    match by:
        case "pod":
            return pod, "", ""
        case "name":
            return "", name, ""
        case "zone":
            return "", zone_of(name), ""
    return pod, name, rtype


def _row(key: tuple[str, str, str], weight: int, total: float, rate: float) -> dict[str, Any]:
    share = weight / total if total else 0.0
    return {"pod": key[0], "name": key[1], "type": key[2], "rate": round(share * rate, 1), "share": round(share, 4)}
