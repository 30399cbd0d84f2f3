"""Runners carry transactions to the kernel (or to the fake)."""

from __future__ import annotations

from typing import Protocol

from fairway_kernel.nft.objects import Layout, Table, TableState
from fairway_kernel.nft.transaction import Transaction


class NftRunner(Protocol):
    """Promise: `run` commits everything or nothing; both are blocking calls for a worker thread, never the event loop."""

    def run(self, transaction: Transaction) -> None:
        """Commit. Raises KernelError with errno ENOENT, EEXIST, EBUSY, … as the kernel answered."""

    def read(self, table: Table, layout: Layout, elements: bool = True) -> TableState | None:
        """What the table holds now, elements of the layout's non-dynamic sets included; None if it does not exist.

        Costs time in the size of the table: for start, drift and tests only, never per change. Without `elements` it costs
        time in the number of rules.
        """

    def close(self) -> None:
        """Release the library and its socket."""
