"""A restart with another configuration: rules are rewritten under traffic, connections and containers stay."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.lab.system import container, kill_agent, nft_json, on_node, policy, service, topology

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.matrix import Matrix
from fairway_netlab.plan import merged
from fairway_netlab.run import await_agent, start_agent

pytestmark = pytest.mark.needs_root


def test_another_range_and_another_dns_address_take_effect_without_a_cut(
    lab: Callable[[dict[str, Any]], Lab], matrix: Callable[[Lab], Matrix]
) -> None:
    one = lab(topology(containers=[container("a", app="a"), container("web-1", port=8080, app="web")]))
    one.apply([service("web"), policy("closed", "shop", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "a"}}}]}])])
    vip = next(item for item in one.request("", "GET", "/v1/objects/services")["items"])["spec"]["clusterIP"]
    link = netns.run_in(one.netns("a"), lambda: socket.create_connection((vip, 80), 5))
    assert link.recv(100)
    before = {item["table"]["handle"] for item in nft_json(one) if "table" in item}
    kill_agent(one)
    over = {
        "node": {"podCIDRs": ["10.244.0.0/24", "10.245.0.0/24", "fd00:10:244::/64"]},
        "dns": {"listen": ["169.254.20.10", "169.254.20.11"]},
    }
    changed = replace(one.node(), config=merged(one.node().config, over))
    await_agent(changed, start_agent(changed))
    link.sendall(b"still here")
    assert link.recv(100) == b"still here"
    link.close()
    assert {item["table"]["handle"] for item in nft_json(one) if "table" in item} == before
    assert "169.254.20.11" in on_node(one, "ip", "addr", "show", "lo")
    assert one.exec("a", ["getent", "hosts", "web"]).returncode == 0
    check = matrix(one)
    for family in (4, 6):
        check.expect_some("a", "web", 80, family=family, answered_by=["web-1"])
        check.expect_some("web-1", "web", 80, family=family, answered_by=["web-1"])
    check.check()
