"""Rate limits of containers, measured with a bounded transfer each way, with the whole agent."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from tests.lab import system
from tests.lab.cni import call

from fairway_kernel import netns
from fairway_netlab.lab import Lab

pytestmark = pytest.mark.needs_root

MEGABIT = 1_000_000
SIZE = 400_000
"""Bytes of a transfer: at 8 Mbit/s 0.4 s, less the burst."""


def shaped(lab: Lab, name: str, **limits: int) -> dict[str, Any]:
    """Attach a container of the topology anew, with limits; the result."""
    call(lab, name, "DEL", {})
    result = call(lab, name, "ADD", {"bandwidth": limits})
    assert "code" not in result, result
    return result


def transfer(source: str, target: str, ip: str) -> float:
    """Megabits per second of a TCP transfer between two namespaces."""
    listener = netns.run_in(target, lambda: socket.create_server((ip, 0)))
    with closing(listener):
        sender = netns.run_in(source, lambda: socket.create_connection(listener.getsockname(), 3))
        with closing(sender), closing(listener.accept()[0]) as receiver:
            receiver.setblocking(False)
            sender.setblocking(False)
            return _pump(sender, receiver)


def _pump(sender: socket.socket, receiver: socket.socket) -> float:
    block, sent, got, start = bytes(65536), 0, 0, time.monotonic()
    while got < SIZE and time.monotonic() < start + 8:
        try:
            sent += sender.send(block[: SIZE - sent]) if sent < SIZE else 0
        except BlockingIOError:
            pass
        try:
            got += len(receiver.recv(65536))
        except BlockingIOError:
            time.sleep(0.002)
    assert got == SIZE
    return 8 * got / 1e6 / (time.monotonic() - start)


def devices(lab: Lab) -> set[str]:
    links = json.loads(system.on_node(lab, "ip", "-j", "link"))
    return {link["ifname"] for link in links}


@pytest.mark.parametrize("mode", ["bridge", "routed"])
def test_both_directions_are_limited_each_by_its_own_rate(lab: Callable[..., Lab], mode: str) -> None:
    one = lab(system.topology(mode, [system.container("a"), system.container("b")]))
    a, b = one.netns("shop/a"), one.netns("shop/b")
    ip = {"b": one.address("shop/b")}
    result = shaped(one, "a", ingressRate=8 * MEGABIT, ingressBurst=200_000, egressRate=4 * MEGABIT, egressBurst=200_000)
    ip["a"] = result["ips"][0]["address"].split("/")[0]
    assert 3 < transfer(b, a, ip["a"]) < 12, "ingress"
    assert 1.5 < transfer(a, b, ip["b"]) < 6.5, "egress"
    assert call(one, "a", "CHECK", {}) == {}
    call(one, "a", "DEL", {})
    assert not any(name.startswith(("fwi",)) for name in devices(one))


def test_a_lost_limit_comes_back_and_a_lost_container_leaves_none(lab: Callable[..., Lab]) -> None:
    one = lab(system.topology("bridge", [system.container("a")]))
    shaped(one, "a", egressRate=MEGABIT, ingressRate=MEGABIT)
    (ifb,) = [name for name in devices(one) if name.startswith("fwi")]
    system.on_node(one, "tc", "qdisc", "del", "dev", "fwb" + ifb[3:], "root")
    assert call(one, "a", "CHECK", {})["code"] == 103
    system.kill_agent(one)
    system.on_node(one, "ip", "link", "del", ifb)
    one.start_agent()
    system.eventually(lambda: call(one, "a", "CHECK", {}) == {}, "limits are put back")
    system.on_node(one, "ip", "link", "del", "fwb" + ifb[3:])
    call(one, "a", "DEL", {})
    assert not any(name.startswith("fw") and not name.startswith("fw-") for name in devices(one))
