"""Arithmetic with address ranges."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from fairway_cni.ipam import AddressPool
from fairway_core.cidrs import never_given


@pytest.mark.parametrize(
    "cidr", ["10.0.0.0/24", "10.0.0.4/30", "10.0.0.4/31", "10.0.0.5/32", "fd00::/64", "fd00::6/127", "fd00::5/128", "::/128"]
)
def test_no_pod_is_given_the_address_it_sees_itself_as(cidr: str) -> None:
    found = never_given(cidr)
    assert ip_address(found).version == ip_network(cidr).version
    pool = AddressPool([cidr])
    given = [pool.allocate(str(number))[0] for number in range(min(4, pool.uses()[0].size))]
    assert found not in given
    assert found != pool.uses()[0].range.partition("/")[0]
