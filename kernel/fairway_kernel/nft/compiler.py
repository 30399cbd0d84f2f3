"""The contract between a component that compiles the world into nft elements and the agent that commits them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fairway_core.delta import Owner
from fairway_core.keys import Key
from fairway_core.world import World
from fairway_kernel.nft.objects import Elements, Layout


class Compiler(Protocol):
    """Promise: the elements of all owners together depend on the world alone, not on the order of updates (numbers such as
    service ids may differ, their meaning may not); an update costs time proportional to what the touched keys concern.
    """

    @property
    def layout(self) -> Layout:
        """Sets, maps and chains; constant for the life of the compiler."""

    def learn(self, actual: Elements) -> None:
        """Take over numbers (ids, profiles, identities) from what the kernel holds. Called once, before the first update, so that
        a restarted agent finds nothing to change."""

    def update(self, before: World, after: World, touched: frozenset[Key]) -> Mapping[Owner, Elements]:
        """The complete new elements of each owner that `touched` may have changed; empty for an owner that is gone.

        The first call has an empty `before` and every key of `after` in `touched`.
        """
