"""A worker that has answered nothing yet: what goes the long way, and what is made in the batch loop."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import dns.message
import pytest

from fairway_core.clock import FakeClock, SystemClock
from fairway_dns.authority import standard_authorities
from fairway_dns.cache import Cache
from fairway_dns.counters import Counters
from fairway_dns.forward import Forwarder
from fairway_dns.fresh import AHEAD, MOST, SHAPES, Fresh
from fairway_dns.measure import NameKinds
from fairway_dns.prepared import Prepared
from fairway_dns.protocol import Begin, Chunk, End
from fairway_dns.resolver import Resolver
from fairway_dns.sockets import listen_udp
from fairway_dns.table import Table
from fairway_dns.udp import UdpServer
from fairway_dns.zone import Record, Zone

Z = "shop.svc.cluster.local"
SERVICES = 2000


class Cold:
    """A worker's UDP socket with a table of services, some with two addresses and some with two families."""

    def __init__(self) -> None:
        self.prepared, self.counters, clock = Prepared(), Counters(), SystemClock()
        self.table = Table(Zone, lambda moved: self.prepared.follow(self.table, moved))
        parts = standard_authorities("cluster.local"), Cache(clock), Forwarder((), (), clock), self.counters
        self.resolver = Resolver(self.table, *parts, logging.getLogger("test"), self.prepared)
        self.take()
        listener = listen_udp("127.0.0.1", 0)
        self.address = listener.getsockname()
        self.udp = UdpServer(listener, self.resolver, self.prepared, clock, self.counters)

    def take(self) -> None:
        """The whole table, as every new connection to an agent begins."""
        names = [f"s{n}.{Z}" for n in range(SERVICES)]
        records = [Record(name, "A", f"10.96.{n >> 8}.{n & 255}") for n, name in enumerate(names)]
        records += [Record(name, "A", f"10.97.{n >> 8}.{n & 255}") for n, name in enumerate(names) if n % 5 == 0]
        records += [Record(name, "AAAA", f"fd00::{n:x}") for n, name in enumerate(names)]
        for frame in (Begin(7), Chunk(frozenset(records)), End(7)):
            self.table.take(frame)

    def ask_all(self, client: socket.socket, rtype: str = "A", edns: int = -1) -> None:
        """Every name once, in batches, until each has its answer."""
        wires = [dns.message.make_query(f"s{n}.{Z}", rtype, use_edns=edns).to_wire() for n in range(SERVICES)]
        for start in range(0, SERVICES, 50):
            asked = wires[start : start + 50]
            for wire in asked:
                client.send(wire)
            while self.udp._burst():
                pass
            for _ in asked:
                answer = dns.message.from_wire(client.recv(600))
                assert len(answer.answer) == 1

    def long_way(self) -> int:
        """Answers that were not made in the batch loop."""
        return sum(count for key, count in self.counters.values.items() if key.endswith("/local"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


async def test_no_first_answer_of_a_service_goes_the_long_way(stack: ExitStack) -> None:
    cold = Cold()
    client = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    client.connect(cold.address)
    client.settimeout(2)
    for rtype, edns in (("A", -1), ("A", 0), ("AAAA", -1)):
        cold.ask_all(client, rtype, edns)
        assert cold.long_way() == 0, (rtype, edns)
    cold.take()
    cold.ask_all(client)
    assert cold.long_way() == 0, "after another snapshot"
    assert cold.counters.values["fast:"] == 4 * SERVICES
    assert cold.counters.values["answers:service/A/NOERROR/udp/fast"] == 3 * SERVICES
    await cold.udp.close(0)


def fresh_of(records: list[Record]) -> tuple[Fresh, Table, Prepared]:
    prepared = Prepared()
    table = Table(Zone, lambda moved: prepared.follow(table, moved))
    fresh = Fresh(table, prepared, Counters(), NameKinds("cluster.local"))
    for frame in (Begin(1), Chunk(frozenset(records)), End(1)):
        table.take(frame)
    return fresh, table, prepared


def test_what_it_makes_is_bounded() -> None:
    many = [Record(f"many.{Z}", "A", f"10.1.{n >> 8}.{n & 255}") for n in range(MOST + 1)]
    fresh, table, _prepared = fresh_of([*many, Record(f"web.{Z}", "A", "10.96.0.1"), Record(f"bad.{Z}", "A", "none")])
    anybody = table.views.anybody
    for name, made in (("web", True), ("many", False), ("bad", False), ("no", False)):
        assert (fresh.reply(anybody, dns.message.make_query(f"{name}.{Z}", "A").to_wire()) is not None) is made
    wire = dns.message.make_query(f"web.{Z}", "A", use_edns=0).to_wire()
    for size in range(2 * SHAPES):
        assert fresh.reply(anybody, wire[:-8] + size.to_bytes(2, "big") + wire[-6:]) is not None
    assert len(fresh._shapes) <= SHAPES
    for broken in (b"", wire[:11], wire[:-1], wire + b"x", wire[:14]):
        assert fresh.reply(anybody, broken) is None


def test_a_worker_is_ready_for_the_commonest_query_before_it_serves() -> None:
    records = [Record(f"s{n}.{Z}", "A", f"10.96.{n >> 8}.{n & 255}") for n in range(100)]
    fresh, table, prepared = fresh_of([*records, Record(f"s7.{Z}", "AAAA", "fd00::7"), Record(f"s7.{Z}", "A", "10.97.0.1")])
    assert fresh.prepare() == len(prepared) == 101
    wires = {n: dns.message.make_query(f"s{n}.{Z}", "A").to_wire() for n in (3, 7)}
    hot = prepared.shared(table.views.anybody).hot
    assert all(wire[2:] in hot for wire in wires.values())
    clock = FakeClock()
    seen = set()
    for _ in range(2):
        found = prepared.find(table.views.anybody, wires[7], clock.monotonic())
        assert found is not None
        seen.add(dns.message.from_wire(wires[7][:2] + found).answer[0][0].address)
    assert seen == {"10.96.0.7", "10.97.0.1"}


def test_a_large_table_is_prepared_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AHEAD <= 16_384
    monkeypatch.setattr("fairway_dns.fresh.AHEAD", 10)
    fresh, _table, prepared = fresh_of([Record(f"s{n}.{Z}", "A", "10.96.0.1") for n in range(100)])
    assert fresh.prepare() == len(prepared) == 10
