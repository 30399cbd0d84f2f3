"""Answers feed egress rules: whoever hears an address can connect to it at once, whatever happens to the agent."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
from tests.lab.egress_agent import WORLD
from tests.lab.foreign import PORT, name_server
from tests.lab.system import container, kill_agent, on_node, topology

from fairway_kernel import netns
from fairway_netlab.lab import Lab
from fairway_netlab.run import await_agent

pytestmark = pytest.mark.needs_root
LabFactory = Callable[[dict[str, Any]], Lab]

V4 = "169.254.20.10"
ROOT = Path(__file__).parents[2]
LINK = {"nodes": ["n1"], "hosts": ["world"], "subnets": ["192.168.90.0/24", "fd00:90::/64"]}
OPEN, SHUT = "n{}.open.example", "n{}.shut.example"


def answers(name: str, rtype: str) -> list[tuple[str, str, str]] | None:
    """nN.open.example and nN.shut.example have one address of each family; aN.open.example is an alias of nN.shut.example."""
    found = re.fullmatch(r"([na])(\d+)\.(open|shut)\.example", name)
    if found is None:
        return None
    number = int(found[2]) + (0 if found[3] == "open" else 4096)
    data = f"198.18.{number >> 8}.{number & 255}" if rtype == "A" else f"2001:2::{number:x}"
    if rtype not in ("A", "AAAA"):
        return []
    if found[1] == "n":
        return [(name, rtype, data)]
    target = f"n{found[2]}.shut.example"
    return [(name, "CNAME", f"{target}."), (target, rtype, data.replace("198.18.", "198.19."))]


class Scene:
    """A node with a container that may connect to what open names lead to, and the world behind it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.agent: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        node = self.lab.node()
        command = self.lab.command(node.name, [sys.executable, "-m", "tests.lab.egress_agent", str(node.config_file)])
        with node.log_file.open("ab") as log:
            self.agent = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        await_agent(node, self.agent)
        # A worker that was there before knows of patterns when the agent's revision is live in it.
        self.lab.apply([])

    def signal(self, number: int) -> None:
        assert self.agent is not None
        os.kill(self.agent.pid, number)
        if number == signal.SIGKILL:
            self.agent.wait()

    def ask(self, name: str, rtype: str = "A", who: str = "front", tcp: bool = False) -> dns.message.Message:
        how = dns.query.tcp if tcp else dns.query.udp
        query = dns.message.make_query(name, rtype, use_edns=0)
        return netns.run_in(self.lab.netns(who), lambda: how(query, V4, timeout=5))

    def address(self, name: str, rtype: str = "A", who: str = "front", tcp: bool = False) -> str:
        """What is answered in the end: on a busy machine an answer may take longer than one is held."""
        deadline = time.monotonic() + 10
        while (reply := self.ask(name, rtype, who, tcp)).rcode() == dns.rcode.SERVFAIL and time.monotonic() < deadline:
            time.sleep(0.05)
        assert reply.rcode() == dns.rcode.NOERROR, reply
        return str(reply.answer[-1][0])

    def connects(self, address: str, who: str = "front", timeout: float = 5.0) -> bool:
        def connect() -> bool:
            try:
                with socket.create_connection((address, 9000), timeout):
                    return True
            except TimeoutError:
                return False

        return netns.run_in(self.lab.netns(who), connect)

    @property
    def dropped(self) -> int:
        """Packets that found their address not let through."""
        found = re.search(r'counter packets (\d+) bytes \d+ drop comment "test-dropped"', self.rules)
        found = found or re.search(r'packets (\d+) bytes \d+ comment "test-dropped"', self.rules)
        assert found is not None, self.rules
        return int(found[1])

    @property
    def rules(self) -> str:
        return on_node(self.lab, "nft", "list", "chain", "inet", "fairway", "test_names")


@pytest.fixture
def scene(lab: LabFactory) -> Iterator[Scene]:
    config = {"dns": {"listen": [V4], "upstreams": [f"127.0.0.1:{PORT}"], "workers": 1}}
    plan = topology("routed", [container("front"), container("back", "payments")], config=config)
    one = lab({**plan, "hosts": [{"name": "world", "serve": [{"port": 9000}]}], "links": [LINK]})
    for family, world in WORLD.items():
        subprocess.run(["ip", "-n", one.station("world").netns, "route", "add", "local", world, "dev", "lo"], check=True)
        on_node(one, "ip", "route", "add", world, "via", one.address("world", family))
    kill_agent(one)
    made = Scene(one)
    with name_server(one.netns("n1"), answers):
        made.start()
        yield made
        made.signal(signal.SIGKILL)


def test_whoever_hears_an_address_can_connect_to_it_at_once(scene: Scene) -> None:
    for number in range(200):
        rtype, tcp = ("A", "AAAA")[number % 2], number % 5 == 4
        address = scene.address(OPEN.format(number), rtype, tcp=tcp)
        assert scene.connects(address), (number, address)
    assert scene.dropped == 0, "no first packet came too early"
    aliased = scene.address("a1.open.example")
    assert aliased.startswith("198.19.")
    assert scene.connects(aliased), "a chain counts under the name that was asked for"
    assert scene.connects(scene.address("n300.open.example.shop.svc.cluster.local")), "a search path under what it leads to"
    assert scene.dropped == 0
    shut = scene.address(SHUT.format(1))
    assert not scene.connects(shut, timeout=0.5)
    assert scene.dropped > 0
    other = scene.address(OPEN.format(900), who="back")
    assert not scene.connects(other, "back", timeout=0.5), "of whom nothing is watched, nothing is learned"
    assert not scene.connects(other, timeout=0.5)


def test_what_was_let_through_outlives_the_agent_and_nothing_is_let_through_without_it(scene: Scene) -> None:
    known = scene.address(OPEN.format(1))
    assert scene.connects(known)
    scene.signal(signal.SIGKILL)
    assert scene.address(OPEN.format(1)) == known
    assert scene.connects(known)
    for tcp in (False, True):
        refused = scene.ask(OPEN.format(2), tcp=tcp)
        assert refused.rcode() == dns.rcode.SERVFAIL
        assert "could not be let through" in refused.options[0].to_text()
    assert scene.address(SHUT.format(3)), "nobody else notices"
    scene.start()
    assert scene.connects(known), "the new agent keeps what it finds"
    again = scene.address(OPEN.format(2))
    assert scene.connects(again)
    assert scene.dropped == 0


def test_a_slow_agent_costs_a_failure_within_bounds(scene: Scene) -> None:
    scene.address(OPEN.format(1))
    scene.signal(signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert scene.ask(OPEN.format(2)).rcode() == dns.rcode.SERVFAIL
        took = time.monotonic() - started
        assert scene.address(OPEN.format(1))
        assert scene.address(SHUT.format(2))
    finally:
        scene.signal(signal.SIGCONT)
    assert 0.08 < took < 2.0, "held for a tenth of a second"
    assert scene.connects(scene.address(OPEN.format(2)))
    assert scene.dropped == 0
