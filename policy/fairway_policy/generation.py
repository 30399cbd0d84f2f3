"""The policy generation: how established connections are judged again after rights were taken away.

Bits 11..0 of a connection's ct mark say under which generation it was last judged; 0 means never. Packets of the generation in
force take the fast path. A bump replaces two one-rule chains; each connection is then judged once more at its next packet.
"""

from __future__ import annotations

from collections.abc import Iterable

from fairway_core.delta import Owner
from fairway_kernel.nft.objects import Chain, Elements, Slot
from fairway_policy.layout import FAST, GENERATION, STAMP

LAST_GENERATION = 4095
GENERATION_MASK = 0x0000_0FFF
KEEP_MASK = 0xFFFF_F000
"""The bits of ct mark that belong to the service NAT."""
GENERATION_OWNER: Owner = ("policy", "generation")


def generation_chains(generation: int) -> tuple[Chain, ...]:
    """The two chains to replace so that `generation` is in force. 0 closes the fast path: every packet is judged.

    Commit element changes first and these in a second transaction: a packet in flight could otherwise be judged by the old
    elements and stamped with the new generation. Raises ValueError outside 0..4095.
    """
    if not 0 <= generation <= LAST_GENERATION:
        raise ValueError(f"policy generation {generation} is not in 0..{LAST_GENERATION}")
    if generation == 0:
        return Chain(FAST), Chain(STAMP)
    return (
        Chain(FAST, (f"ct mark & {GENERATION_MASK:#010x} == {generation:#05x} accept",)),
        Chain(STAMP, (f"ct mark set ct mark & {KEEP_MASK:#010x} | {generation:#05x}",)),
    )


def next_generation(current: int) -> tuple[int, bool]:
    """The generation after `current`, and whether the numbers wrap round.

    When they wrap the caller must, in this order: put generation 0 in force, clear bits 11..0 of every conntrack entry's mark,
    then put the new generation in force; else an entry of 4,095 bumps ago would pass unjudged.
    """
    return (1, True) if current >= LAST_GENERATION else (current + 1, False)


def generation_elements(generation: int) -> Elements:
    """The book-keeping element, to be declared by `GENERATION_OWNER` in the transaction that replaces the chains."""
    return {Slot(GENERATION.name, (generation,)): ()}


def read_generation(slots: Iterable[Slot]) -> int:
    """The generation recorded among elements read from the kernel; 0 if there is none."""
    numbers = (slot.key[0] for slot in slots if slot.set == GENERATION.name)
    return max((number for number in numbers if isinstance(number, int)), default=0)
