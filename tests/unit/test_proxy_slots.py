"""Marks, slots and ids of service balancing."""

from __future__ import annotations

from collections import Counter

import pytest

from fairway_core.errors import ExhaustedError
from fairway_kernel.nft.objects import Slot
from fairway_proxy.ids import PortIds, PortKey
from fairway_proxy.marks import AFFINITY_BIT, CT_MASK, DROP, MAX_ID, REJECT, class_of, ct_mark_of, id_of, mark_of
from fairway_proxy.slots import EXACT, WIDE, Target, assign_slots, number_targets, slot_count


def targets(count: int, port: int = 80) -> list[Target]:
    return sorted((f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", port) for n in range(count))


def key(name: str, port: int = 80) -> PortKey:
    return PortKey("shop", name, "TCP", port)


def door(ip: str, port: int = 80) -> Slot:
    return Slot("svc4", (ip, "tcp", port))


@pytest.mark.parametrize("number", [1, 2, 4096, MAX_ID])
@pytest.mark.parametrize("affinity", [False, True])
@pytest.mark.parametrize("class_", [REJECT, 1, 64, 2048, DROP])
def test_a_mark_holds_its_three_parts_in_32_bits(number: int, affinity: bool, class_: int) -> None:
    mark = mark_of(number, affinity, class_)
    assert 0 < mark < 1 << 32
    assert (id_of(mark), bool(mark & AFFINITY_BIT), class_of(mark)) == (number, affinity, class_)
    assert ct_mark_of(mark) == mark & CT_MASK and ct_mark_of(mark) & 0xFFF == 0


@pytest.mark.parametrize(("number", "class_"), [(0, 1), (MAX_ID + 1, 1), (1, 4096), (1, -1)])
def test_a_part_that_does_not_fit_is_refused(number: int, class_: int) -> None:
    with pytest.raises(ValueError):
        mark_of(number, False, class_)


def test_no_endpoint_means_reject() -> None:
    assert slot_count(0) == REJECT and assign_slots([]) == []


@pytest.mark.parametrize("count", [1, 2, 5, EXACT])
def test_up_to_64_endpoints_share_exactly(count: int) -> None:
    assert assign_slots(targets(count)) == targets(count)


@pytest.mark.parametrize("count", [EXACT + 1, 100, 128, 129, 256, 1000, 2048])
def test_many_endpoints_share_but_for_one_slot(count: int) -> None:
    slots = assign_slots(targets(count))
    shares = Counter(slots)
    assert len(slots) in WIDE and set(shares) == set(targets(count))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_more_endpoints_than_slots_use_every_slot_once() -> None:
    assert len(set(assign_slots(targets(3000)))) == WIDE[-1]


def test_one_endpoint_less_of_many_moves_few_slots() -> None:
    before, after = assign_slots(targets(100)), assign_slots(targets(100)[:50] + targets(100)[51:])
    gone = targets(100)[50]
    needless = sum(old != new for old, new in zip(before, after, strict=True) if old != gone)
    assert needless < len(before) * 0.06


def test_colliding_checksums_still_get_different_numbers() -> None:
    numbers = number_targets(targets(2000))
    assert len(set(numbers.values())) == 2000 and all(0 < number <= 1 << 31 for number in numbers.values())


def test_ids_are_stable_lowest_first_and_used_again() -> None:
    ids = PortIds()
    assert [ids.assign(key(name), []) for name in ("a", "b", "c", "a")] == [1, 2, 3, 1]
    ids.retain("shop", "b", [])
    assert ids.assign(key("d"), []) == 2
    assert ids.assign(key("e"), []) == 4


def test_a_service_keeps_the_ids_of_the_ports_it_still_has() -> None:
    ids = PortIds()
    ids.assign(key("a", 80), []), ids.assign(key("a", 81), [])
    ids.retain("shop", "a", [key("a", 81)])
    assert ids.assign(key("a", 81), []) == 2
    assert ids.assign(key("a", 82), []) == 1


def test_learnt_ids_go_back_to_their_frontends_only() -> None:
    ids = PortIds()
    ids.learn({door("10.96.0.1"): 1, door("10.96.0.2"): 7, door("10.96.0.3"): 0})
    assert ids.assign(key("new"), [door("10.96.0.9")]) == 2
    assert ids.assign(key("b"), [door("192.0.2.1"), door("10.96.0.2")]) == 7
    assert ids.assign(key("zero"), [door("10.96.0.3")]) == 3
    ids.settle()
    assert ids.assign(key("later"), [door("10.96.0.1")]) == 1


def test_two_ports_that_learnt_the_same_id_do_not_share_it() -> None:
    ids = PortIds()
    ids.learn({door("10.96.0.1"): 5, door("10.96.0.2"): 5})
    assert ids.assign(key("a"), [door("10.96.0.1")]) == 5
    assert ids.assign(key("b"), [door("10.96.0.2")]) != 5


def test_ids_run_out_with_a_clear_error() -> None:
    ids = PortIds(limit=2)
    ids.assign(key("a"), []), ids.assign(key("b"), [])
    with pytest.raises(ExhaustedError, match="service port ids: all 2"):
        ids.assign(key("c"), [])
    ids.retain("shop", "a", [])
    assert ids.assign(key("c"), []) == 1
