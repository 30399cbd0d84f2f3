"""Addresses of allowed names as elements of nftables: sets that rules may refer to, filled before anybody hears an address."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.model import family_of
from fairway_core.world import World
from fairway_dns.watch import EgressRules
from fairway_kernel.nft.objects import Elements, Layout, SetDecl, Slot

EGRESS4 = SetDecl("egress_names4", ("mark", "ipv4_addr"))
EGRESS6 = SetDecl("egress_names6", ("mark", "ipv6_addr"))


class EgressCompiler:
    """The nft compiler (fairway_kernel.nft.compiler) of learned addresses: sets with pairs of scope and address.

    They do not follow from the world but from what DNS has said; only which scopes exist does. When an element goes is decided
    outside, so that an agent that starts anew keeps what it finds. No chain refers to the sets here.
    """

    def __init__(self, rules: EgressRules) -> None:
        self._rules = rules
        self._queue: deque[tuple[int, str, bool]] = deque()
        self.adopted: tuple[tuple[int, str], ...] = ()
        """What the kernel held at the start, of scopes that there still are. Complete after the first update."""
        self._begun = False

    @property
    def layout(self) -> Layout:
        """Two sets."""
        return Layout((EGRESS4, EGRESS6))

    def learn(self, actual: Elements) -> None:
        """Take over what an earlier agent let through."""
        ours = (slot.key for slot in actual if slot.set in (EGRESS4.name, EGRESS6.name))
        self.adopted = tuple(sorted((int(str(scope)), str(address)) for scope, address in ours))

    def put(self, scope: int, address: str, present: bool) -> None:
        """Let an address through from the next update on, or no longer. From any thread; the last word counts."""
        self._queue.append((scope, address, present))

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        """What was put since the last time."""
        found: dict[Owner, Elements] = {}
        if not self._begun:
            self._begun = True
            # The rules have seen the world by now: they are asked behind the compiler that they come from.
            scopes = self._rules.patterns()
            self.adopted = tuple(item for item in self.adopted if item[0] in scopes)
            found.update(_claim(scope, address, True) for scope, address in self.adopted)
        while self._queue:
            owner, elements = _claim(*self._queue.popleft())
            found[owner] = elements
        return found


def _claim(scope: int, address: str, present: bool) -> tuple[Owner, Elements]:
    # One owner each: what changes is declared without the rest.
    decl = EGRESS6 if family_of(address) == 6 else EGRESS4
    return ("Egress", str(scope), address), {Slot(decl.name, (scope, address)): ()} if present else {}
