"""UDP flows that still go to an endpoint that is gone.

A UDP client keeps its socket, so its connection tracking entry, and with it the translation to a dead endpoint, lives as long as
it keeps sending. TCP needs no such help: the peer's silence or reset ends the connection. Deciding is done here, purely;
deleting is `fairway_kernel.conntrack.Conntrack.forget`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from fairway_kernel.conntrack import Match, Tuple
from fairway_kernel.nft.objects import Elements
from fairway_proxy.marks import ID_MASK, ID_SHIFT, id_of
from fairway_proxy.slots import Target

UDP = 17
"""IP protocol number."""


class UdpFlows:
    """Endpoints per UDP service port, by id, and those lost since the last `take`."""

    def __init__(self) -> None:
        self._alive: dict[int, frozenset[Target]] = {}
        self._lost: set[tuple[int, Target]] = set()

    def learn(self, actual: Elements) -> None:
        """Take over what the kernel balances to, so that what went while nobody watched is noticed."""
        doors = (value for slot, value in actual.items() if slot.set.startswith("svc") and "udp" in slot.key)
        numbers = {id_of(int(value[0])) for value in doors}
        numbers |= {
            id_of(int(value[0]))
            for slot, value in actual.items()
            if slot.set.startswith("svc_inside") and id_of(int(str(slot.key[0]))) in numbers
        }
        seen: dict[int, set[Target]] = defaultdict(set)
        for slot, value in actual.items():
            if slot.set in ("eps4", "eps6") and isinstance(slot.key[0], int) and id_of(slot.key[0]) in numbers:
                seen[id_of(slot.key[0])].add((str(value[0]), int(value[1])))
        self._alive = {number: frozenset(targets) for number, targets in seen.items()}

    def see(self, number: int, alive: Collection[Target]) -> None:
        """The endpoints of a port that still answer; none once the port is gone or was never UDP."""
        now = frozenset(alive)
        self._lost |= {(number, target) for target in self._alive.get(number, frozenset()) - now}
        self._lost -= {(number, target) for target in now}
        if now:
            self._alive[number] = now
        else:
            self._alive.pop(number, None)

    def take(self) -> list[Match]:
        """Which tracked connections to forget, each told once, in a fixed order."""
        lost, self._lost = sorted(self._lost), set()
        return [Match(UDP, reply=Tuple(src=ip, src_port=port), mark=(number << ID_SHIFT, ID_MASK)) for number, (ip, port) in lost]
