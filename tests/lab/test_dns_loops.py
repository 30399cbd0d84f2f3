"""Loops with several workers on one port: a probe may come back to the wrong one."""

from __future__ import annotations

import logging
import socket

import dns.message
import pytest
from tests.lab.nameservers import Udp, asked, inside, until

from fairway_core.clock import SystemClock
from fairway_dns import loop as loops
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.config import Address
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder, ForwardLimits
from fairway_dns.prepared import Prepared
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import listen_udp
from fairway_dns.table import Table
from fairway_dns.udp import UdpServer
from fairway_dns.wire import HINFO
from fairway_dns.zone import Zone

pytestmark = pytest.mark.needs_root
HOST, PORT = "127.0.0.10", 5310


class Member:
    """What a worker has, on a port that it shares."""

    def __init__(self) -> None:
        clock, self.counters, prepared, log = SystemClock(), Counters(), Prepared(), logging.getLogger("test")
        # No server is suspected within the test: only the probes of the start count.
        patient = ForwardLimits(patience=30.0, total=60.0)
        self.uplink = Forwarder([Address("127.0.0.2")], (), clock, patient, counters=self.counters, log=log)
        parts = standard_authorities("cluster.local"), Cache(clock), self.uplink, self.counters, log
        self.udp = UdpServer(listen_udp(HOST, PORT), Resolver(Table(Zone), *parts, prepared), prepared, clock, self.counters)
        self.udp.start()

    def probed(self) -> bytes:
        """The name of the probe under way."""
        guard = self.uplink._guard
        assert guard is not None
        return guard._probes[0].name

    def count(self, name: str) -> int:
        return self.counters.values.get(name, 0)


def door(member: Member) -> socket.socket:
    """A socket whose datagrams the kernel gives to this one."""
    for _ in range(200):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("127.0.0.2", 0))
        made.connect((HOST, PORT))
        made.settimeout(2)
        while member.udp._burst():
            pass  # What came through others, while somebody else's door was looked for, proves nothing.
        before = member.count("queries:A")
        made.send(dns.message.make_query("localhost", "A").to_wire())
        while member.count("queries:A") == before and member.udp._burst():
            pass
        if member.count("queries:A") > before:
            made.setblocking(False)
            return made
        made.close()
    raise AssertionError("the kernel never chooses this one")


def test_each_worker_finds_the_loop_though_the_first_probes_go_astray(
    namespace: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Long enough that no probe is given up before its way back on a busy machine.
    monkeypatch.setattr(loops, "WAIT", 1.0)

    async def body() -> None:
        members = Member(), Member()
        doors = [door(member) for member in members]
        lucky, unlucky = members
        probes: list[bytes] = []

        def back(data: bytes) -> None:
            name = data[12 : data.index(0, 12) + 1].lower()
            if data[len(name) + 13] != HINFO or name in probes:
                return  # Whoever gets a stranger's probe asks it on, since to them it is a question like any other.
            probes.append(name)
            own = unlucky if lucky.probed() != name else lucky
            doors[0 if own is lucky or len(probes) <= 2 else 1].send(data)

        await Udp(back).start("127.0.0.2")
        for member in members:
            member.uplink.ask(asked(), lambda _response: None)
        await until(lambda: all(member.count("loops:") == 1 for member in members), 20)
        assert len(probes) >= 3
        assert caplog.text.count("sends our questions back") == 2
        for member in members:
            await member.udp.close(0)
            await member.uplink.close()
        for one in doors:
            one.close()

    inside(namespace, body)
