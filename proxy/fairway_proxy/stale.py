"""UDP flows that still go to an endpoint that is gone, or past a service that is new.

A UDP client keeps its socket, so its connection tracking entry, and with it the translation to a dead endpoint or the lack of
one, lives as long as it keeps sending. TCP needs no such help: the peer's silence or reset ends the connection. Deciding is done
here, purely; deleting is `fairway_kernel.conntrack.Conntrack.forget`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from fairway_core.delta import Owner
from fairway_core.model.meta import FAMILIES
from fairway_kernel.conntrack import Match, Tuple
from fairway_kernel.nft.objects import Elements, Slot
from fairway_proxy.marks import ID_MASK, ID_SHIFT, id_of
from fairway_proxy.slots import Target

FRONTEND_SETS = frozenset(f"{name}{family}" for name in ("svc", "svc_nodeport") for family in FAMILIES)
UDP = 17
"""IP protocol number."""


class UdpFlows:
    """Endpoints per UDP service port, by id, and those lost since the last `take`; frontends per owner, and those opened."""

    def __init__(self) -> None:
        self._alive: dict[int, frozenset[Target]] = {}
        self._lost: set[tuple[int, Target]] = set()
        self._doors: dict[Owner, frozenset[Slot]] = {}
        self._learnt: frozenset[Slot] | None = None
        self._opened: set[Slot] = set()
        self._settled = False

    def learn(self, actual: Elements) -> None:
        """Take over what the kernel balances to, so that what went while nobody watched is noticed."""
        doors = udp_doors(actual)
        self._learnt = doors or None
        numbers = {id_of(int(actual[slot][0])) for slot in doors}
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

    def see_doors(self, owner: Owner, doors: frozenset[Slot]) -> None:
        """The UDP frontends that an owner has now."""
        before = self._doors.pop(owner, frozenset()) | (self._learnt or frozenset())
        if doors:
            self._doors[owner] = doors
        # A node that had no table before has no clients yet either.
        if self._settled or self._learnt is not None:
            self._opened |= doors - before

    def settle(self) -> None:
        """Every owner has been seen."""
        self._settled, self._learnt = True, None

    def take(self) -> list[Match]:
        """Which tracked connections to forget, each told once, in a fixed order."""
        lost, self._lost = sorted(self._lost), set()
        opened, self._opened = sorted(self._opened, key=repr), set()
        gone = [Match(UDP, reply=Tuple(src=ip, src_port=port), mark=(number << ID_SHIFT, ID_MASK)) for number, (ip, port) in lost]
        return gone + [_untranslated(slot) for slot in opened]


def udp_doors(elements: Elements) -> frozenset[Slot]:
    """The frontends of UDP ports among some elements."""
    return frozenset(slot for slot in elements if slot.set in FRONTEND_SETS and "udp" in slot.key)


def _untranslated(door: Slot) -> Match:
    """Flows that asked for a frontend while it was none: answers would come from where they went."""
    ip, port = str(door.key[0]) if len(door.key) == 3 else "", int(str(door.key[-1]))
    return Match(UDP, orig=Tuple(dst=ip, dst_port=port), reply=Tuple(src=ip, src_port=port))
