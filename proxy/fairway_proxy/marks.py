"""The packet mark that carries a balancing decision from one nftables rule to the next.

    bits 31..13  service port id, 1 .. 524287; 0 means "not balanced"
    bit  12      1 if the service keeps a client at its endpoint (sessionAffinity: ClientIP)
    bits 11..0   class: how many slots there are, or what to do instead

The upper 20 bits are also the service's part of the connection mark; the lower 12 bits there belong to the policy generation.
"""

from __future__ import annotations

CLASS_BITS = 12
CLASS_MASK = (1 << CLASS_BITS) - 1
CT_MASK = 0xFFFFFFFF & ~CLASS_MASK
AFFINITY_BIT = 1 << CLASS_BITS
ID_SHIFT = CLASS_BITS + 1
ID_MASK = 0xFFFFFFFF & ~((1 << ID_SHIFT) - 1)
MAX_ID = (1 << (32 - ID_SHIFT)) - 1

REJECT = 0
"""Class of a service port without endpoints: TCP reset, ICMP port unreachable."""

MAGLEV = 251
"""Reserved for source hashing over a 251-slot table; no chain yet."""

DROP = 4094
"""Class of a port with policy Local and endpoints on other nodes only: silence, so that a load balancer tries elsewhere."""


def mark_of(port_id: int, affinity: bool, class_: int) -> int:
    """The packet mark. Raises ValueError if a part does not fit its field."""
    if not 0 < port_id <= MAX_ID or not 0 <= class_ <= CLASS_MASK:
        raise ValueError(f"no mark for service port id {port_id} and class {class_}")
    return port_id << ID_SHIFT | affinity << CLASS_BITS | class_


def ct_mark_of(mark: int) -> int:
    """The service's part of the connection mark that belongs to a packet mark."""
    return mark & CT_MASK


def id_of(mark: int) -> int:
    """The service port id inside a packet or connection mark; 0 if there is none."""
    return mark >> ID_SHIFT


def class_of(mark: int) -> int:
    """The class inside a packet mark."""
    return mark & CLASS_MASK
