"""How much one client may ask: queries per second and connections. Addresses of containers are pinned, so a client cannot pass
for another and none can make another one pay. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from fairway_dns.counters import Counters

CLIENTS: Final = 4096
"""Clients remembered; more than a node has containers."""
NAMED: Final = 256
"""Clients counted by address, the others together."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """`qps` queries per second over UDP and TCP together, of which one second's worth may come at once; 0: no limit.
    `connections`: TCP connections at a time.
    """

    qps: int = 0
    connections: int = 64


class RateLimiter:
    """A token bucket per client, kept as the time at which its tokens would be spent (the generic cell rate algorithm).

    Promise: in any time t a client gets no more than qps x (t + 1) queries through; memory is bounded; what one client does
    changes nothing for another.
    """

    def __init__(self, qps: int, counters: Counters) -> None:
        self._step = 1 / qps
        self._counters = counters
        self._spent: dict[bytes, float] = {}
        self._cells: dict[bytes, list[int]] = {}

    def admit(self, client: bytes, now: float) -> bool:
        """Whether a query of `client` (a packed address) at monotonic time `now` is within the limit; counts it if not."""
        spent = max(self._spent.get(client, 0.0), now) + self._step
        if spent - now > 1.0:
            self._cell(client)[0] += 1
            return False
        self._keep(client, spent, now)
        return True

    def reserve(self, client: bytes, now: float) -> float:
        """Count a query of `client` in any case; the seconds after which it is within the limit, for those who can wait."""
        spent = max(self._spent.get(client, 0.0), now) + self._step
        self._keep(client, spent, now)
        return max(0.0, spent - now - 1.0)

    def _keep(self, client: bytes, spent: float, now: float) -> None:
        if len(self._spent) >= CLIENTS:
            self._forget(now)
        self._spent[client] = spent

    def _forget(self, now: float) -> None:
        """Drop those who have spent nothing that still counts; should nobody be left out, everybody starts anew."""
        kept = {client: spent for client, spent in self._spent.items() if spent > now}
        self._spent = kept if len(kept) < CLIENTS else {}

    def _cell(self, client: bytes) -> list[int]:
        cell = self._cells.get(client)
        if cell is None:
            label = str(ip_address(client)) if client and len(self._cells) < NAMED else "other"
            cell = self._counters.named("limited", label)
            if len(self._cells) < NAMED:
                self._cells[client] = cell
        return cell
