"""What the log says about calls, with the whole agent."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.lab import system
from tests.lab.caller import Container

from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root


@pytest.fixture
def one(lab: Callable[..., Lab], namespaces: Callable[[str], str]) -> Container:
    return Container(lab({"nodes": [{"name": "n1", "podCIDRs": ["10.244.0.0/24"]}]}), namespaces("c"))


def test_the_log_tells_of_each_call_who_and_where_and_whose_trace(one: Container) -> None:
    """TRACEPARENT as newer libraries set it."""
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    one.call("ADD", TRACEPARENT=trace, TRACESTATE="a=b", BAGGAGE="c=d")
    one.call("ADD", CNI_IFNAME="eth1", CNI_NETNS="/run/netns/none")

    def told() -> bool:
        log = one.lab.node().log_file.read_text()
        return all(text in log for text in (trace, one.id, one.netns, "eth0", "/run/netns/none"))

    system.eventually(told, "container, interface, namespace and trace are in the log")
