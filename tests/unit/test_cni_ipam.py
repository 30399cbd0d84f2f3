"""Address pools."""

from __future__ import annotations

import time

import pytest

from fairway_cni.ipam import AddressPool, mac_of
from fairway_core.errors import ConflictError, ExhaustedError, UserError


def test_reserved_addresses_are_never_given_out() -> None:
    pool = AddressPool(["10.0.0.0/29"])
    assert [pool.allocate(str(n))[0] for n in range(5)] == [f"10.0.0.{n}" for n in range(2, 7)]
    with pytest.raises(ExhaustedError, match=r"10\.0\.0\.0/29: 5 of 5 in use"):
        pool.allocate("more")
    for ip in ("10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.1.1"):
        with pytest.raises(UserError):
            pool.allocate("more", [ip])


def test_a_freed_address_is_reused_last() -> None:
    pool = AddressPool(["10.0.0.0/29"])
    pool.allocate("a")
    pool.release(["10.0.0.2"], "a")
    taken = [pool.allocate(str(n))[0] for n in range(5)]
    assert taken == ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.2"]


def test_a_requested_address_is_checked_and_skipped_later() -> None:
    pool = AddressPool(["10.0.0.0/29", "fd00::/64"])
    assert pool.allocate("a", ["10.0.0.3"]) == ("10.0.0.3", "fd00::2")
    with pytest.raises(ConflictError, match="in use by a"):
        pool.allocate("b", ["10.0.0.3"])
    assert pool.allocate("b", ["fd00::99"]) == ("10.0.0.2", "fd00::99")
    assert pool.allocate("c") == ("10.0.0.4", "fd00::3")
    with pytest.raises(UserError):
        pool.allocate("d", ["10.0.0.5", "10.0.0.6"])
    with pytest.raises(UserError):
        AddressPool(["10.0.0.0/29"]).allocate("d", ["fd00::1"])


def test_nothing_is_kept_when_one_family_is_exhausted() -> None:
    pool = AddressPool(["10.0.0.0/30", "fd00::/127"])
    pool.allocate("a")
    with pytest.raises(ExhaustedError, match="IPv4"):
        pool.allocate("b")
    assert pool.counts() == {"10.0.0.0/30": (1, 1), "fd00::/127": (1, 2)}


def test_a_new_agent_goes_on_behind_what_is_held() -> None:
    pool = AddressPool(["10.0.0.0/29"])
    pool.adopt([("10.0.0.2", "a"), ("10.0.0.4", "b"), ("192.0.2.1", "elsewhere")])
    assert [pool.allocate(str(n))[0] for n in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.3"]
    assert pool.exhausted


def test_somebody_elses_address_is_not_released() -> None:
    pool = AddressPool(["10.0.0.0/29"])
    pool.allocate("a")
    pool.release(["10.0.0.2", "192.0.2.1"], "b")
    assert pool.owner_of("10.0.0.2") == "a"
    assert not pool.hold("10.0.0.2", "c")
    assert pool.hold("192.0.2.1", "c")


def test_second_range_is_used_when_the_first_is_full() -> None:
    pool = AddressPool(["10.0.0.0/30", "10.0.1.0/30"])
    assert [pool.allocate(str(n))[0] for n in range(2)] == ["10.0.0.2", "10.0.1.2"]


def test_an_empty_pool_says_so() -> None:
    pool = AddressPool([])
    assert "no podCIDRs" in pool.exhausted
    with pytest.raises(ExhaustedError, match="no podCIDRs"):
        pool.allocate("a")


def test_cost_does_not_grow_with_use() -> None:
    def seconds(pool: AddressPool, count: int) -> float:
        best = 1.0
        for _ in range(5):
            start = time.perf_counter()
            held = [(pool.allocate(f"t{n}"), f"t{n}") for n in range(count)]
            best = min(best, time.perf_counter() - start)
            for ips, owner in held:
                pool.release(ips, owner)
        return best

    empty, full = AddressPool(["10.0.0.0/8"]), AddressPool(["10.0.0.0/8"])
    full.adopt((f"10.{n >> 8 & 255}.{n & 255}.7", str(n)) for n in range(50_000))
    assert seconds(full, 500) < 5 * seconds(empty, 500)


def test_macs_are_unicast_and_follow_from_the_address() -> None:
    assert mac_of("10.1.2.3") == "0a:58:0a:01:02:03"
    for ip in ("10.1.2.3", "fd00::2", "fd00::3"):
        first = int(mac_of(ip)[:2], 16)
        assert first & 3 == 2
    assert mac_of("fd00::2") != mac_of("fd00::3")
