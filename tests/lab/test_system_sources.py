"""loadBalancerSourceRanges, on packets: who may use a load balancer's addresses, in both families, before and after a restart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.lab.system import container, eventually, kill_agent, on_node, service, topology

from fairway_netlab.control import call
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix

pytestmark = pytest.mark.needs_root
OUTSIDE = ["192.168.70.0/24", "fd00:70::/64"]
ADDRESSES = ("203.0.113.10", "2001:db8:113::10")
FRIEND = {4: "192.168.70.2/32", 6: "fd00:70::2/128"}


def public(*ranges: str) -> dict[str, Any]:
    made = service("web", type="LoadBalancer", loadBalancerSourceRanges=list(ranges))
    return {**made, "status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ADDRESSES]}}}


def test_only_the_ranges_named_use_the_address(lab: Callable[[dict[str, Any]], Lab], matrix: Callable[[Lab], Matrix]) -> None:
    base = topology("bridge", [container("web", port=8080, app="web"), container("inside")])
    hosts = [{"name": "friend"}, {"name": "stranger"}]
    link = {"nodes": ["n1"], "hosts": ["friend", "stranger"], "subnets": OUTSIDE}
    one = lab({**base, "hosts": hosts, "links": [link]})

    def expect(friend: bool, stranger: bool, inside: bool) -> None:
        shown = matrix(one)
        for name, open_ in (("friend", friend), ("stranger", stranger), ("inside", inside)):
            for address in ADDRESSES:
                for protocol in ("TCP", "UDP"):
                    (shown.expect_some if open_ else shown.expect_none)(name, address, 80, protocol)
        # The virtual IP is no business of these ranges.
        shown.expect_some("inside", "web.shop", 80, answered_by=["web"])
        shown.check()

    one.apply([public()])
    expect(True, True, True)
    # Ranges may overlap each other: the kernel's sets may not.
    one.apply([public(*FRIEND.values(), "10.99.0.0/16", "10.99.1.0/24")])
    expect(True, False, False)

    kill_agent(one)
    expect(True, False, False)
    before = on_node(one, "nft", "list", "map", "inet", "fairway", "svc_guarded4")
    one.start_agent()
    assert on_node(one, "nft", "list", "map", "inet", "fairway", "svc_guarded4") == before
    eventually(lambda: call(one.node().socket, "GET", "/v1/status")["ready"], "the agent has adopted the rules")
    expect(True, False, False)

    one.apply([public(FRIEND[4], "10.244.0.0/24", "fd00:10:244::/64")])
    shown = matrix(one).expect_some("friend", ADDRESSES[0], 80).expect_none("friend", ADDRESSES[1], 80)
    shown.expect_some("inside", ADDRESSES[0], 80).expect_some("inside", ADDRESSES[1], 80).check()
    one.apply([public()])
    expect(True, True, True)
