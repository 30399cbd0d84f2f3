"""What is forgotten for ports: one look at the table, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from fairway_agent.flows import forget_unserved
from fairway_core.model import HostPort
from fairway_kernel.conntrack import Conntrack, Entry, Match, Tuple


def entry(port: int, served: bool = False, protocol: int = 17) -> Entry:
    asked = Tuple("192.0.2.1", "192.0.2.9", 5000, port)
    answer = Tuple("10.244.0.2" if served else asked.dst, asked.src, 80 if served else port, 5000)
    return Entry(protocol, asked, answer)


class Table:
    """The node's connections."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = entries
        self.looks = 0
        self.forgotten: list[Match] = []

    def entries(self, match: Match) -> list[Entry]:
        self.looks += 1
        return [item for item in self._entries if match(item)]

    def forget(self, matches: Sequence[Match]) -> None:
        self.forgotten += matches


def ports(*numbers: int, protocol: str = "udp") -> list[HostPort]:
    return [HostPort(host_port=number, container_port=80, protocol=protocol) for number in numbers]


def test_senders_that_nobody_serves_are_forgotten_after_one_look() -> None:
    table = Table([entry(53), entry(54), entry(55), entry(54, served=True), entry(53, protocol=6)])
    forget_unserved(cast("Conntrack", table), ports(53, 54))
    assert table.forgotten == [Match(17, entry(number).orig) for number in (53, 54)]
    assert table.looks == 1


def test_without_a_udp_port_nobody_looks() -> None:
    table = Table([entry(53)])
    forget_unserved(cast("Conntrack", table), ports(53, protocol="tcp"))
    assert (table.looks, table.forgotten) == (0, [])
