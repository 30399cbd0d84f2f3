"""Follow a new connection through compiled elements as the kernel's rules would. Pure; for explanations and tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from fairway_core.model import family_of
from fairway_kernel.nft.objects import Elements, Slot
from fairway_proxy.marks import AFFINITY_BIT, DROP, REJECT, class_of, ct_mark_of
from fairway_proxy.slots import Target

Fate = Literal["pass", "balance", "reject", "drop"]


@dataclass(frozen=True, slots=True)
class Trace:
    """What becomes of a new connection. `shares` counts slots per endpoint; `timeout` is seconds of affinity, 0 without."""

    fate: Fate
    shares: Mapping[Target, int] = field(default_factory=dict)
    timeout: int = 0
    mark: int = 0


def trace(
    elements: Elements, address: str, protocol: str, port: int, node_addresses: Collection[str] = (), inside: bool = False
) -> Trace:
    """The fate of a new connection to `address`:`port`, begun by this node or a pod of it if `inside`.

    Raises KeyError if a slot the rules may draw is not there.
    """
    family = family_of(address)
    mark = _mark(elements, Slot(f"svc{family}", (address, protocol, port)))
    if not mark:
        if Slot(f"svc_vips{family}", (address,)) in elements:
            return Trace("reject")
        if address in node_addresses and not _excluded(address):
            mark = _mark(elements, Slot(f"svc_nodeport{family}", (protocol, port)))
    if inside:
        mark = _mark(elements, Slot(f"svc_inside{family}", (mark,))) or mark
    return _picked(elements, family, mark) if mark else Trace("pass")


def _picked(elements: Elements, family: int, mark: int) -> Trace:
    class_ = class_of(mark)
    if class_ == REJECT:
        return Trace("reject", mark=mark)
    if class_ == DROP:
        return Trace("drop", mark=mark)
    drawn = [elements[Slot(f"eps{family}", (mark, slot))] for slot in range(class_)]
    timeout = int(elements[Slot("svc_afftime", (ct_mark_of(mark),))][0]) if mark & AFFINITY_BIT else 0
    return Trace("balance", Counter((str(value[0]), int(value[1])) for value in drawn), timeout, mark)


def _mark(elements: Elements, slot: Slot) -> int:
    value = elements.get(slot)
    return int(value[0]) if value else 0


def _excluded(address: str) -> bool:
    ip = ip_address(address)
    return ip.is_loopback or ip.is_link_local
