"""The cluster's DNS Service on the move: which addresses are answered, and in which order that comes about."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest

from fairway_agent import cluster_dns
from fairway_agent.cluster import DNS_SERVICE
from fairway_agent.cluster_dns import ClusterDns, ServedAddresses
from fairway_agent.problems import Problems
from fairway_core.keys import Key
from fairway_core.model import Meta, Service
from fairway_core.world import Change, World

OWN = "169.254.20.10"
OTHER = Key("Service", "shop", "web")


class Addresses:
    """What is answered, step by step."""

    def __init__(self, *now: str) -> None:
        self.served = ServedAddresses([OWN], [OWN, *now])
        self.world = World()

    def put(self, key: Key, *ips: str) -> tuple[str, ...]:
        service = Service(Meta(key.name, key.namespace), cluster_ips=ips) if ips else None
        self.world, touched = self.world.apply([Change(key, service)], self.world.revision + 1)
        self.served.follow(self.world, touched)
        return self.served.addresses


def test_an_address_is_answered_from_its_appearance_on() -> None:
    seen = Addresses()
    assert seen.put(OTHER, "10.96.0.80") == (OWN,)
    assert seen.put(DNS_SERVICE, "10.96.0.10", "fd00::10") == (OWN, "10.96.0.10", "fd00::10")
    assert seen.put(DNS_SERVICE, "10.96.0.10") == (OWN, "10.96.0.10", "fd00::10")


def test_an_address_it_had_is_answered_until_another_service_has_it() -> None:
    seen = Addresses("10.96.0.10")
    assert seen.put(DNS_SERVICE, "10.96.0.11") == (OWN, "10.96.0.10", "10.96.0.11")
    assert seen.put(DNS_SERVICE) == (OWN, "10.96.0.10", "10.96.0.11")
    assert seen.put(OTHER, "10.96.0.10") == (OWN, "10.96.0.11")
    assert seen.put(DNS_SERVICE, "10.96.0.11") == (OWN, "10.96.0.11")


def test_what_is_configured_stays_whatever_services_say() -> None:
    seen = Addresses()
    assert seen.put(OTHER, OWN) == (OWN,)
    assert seen.put(DNS_SERVICE, OWN) == (OWN,)


class Rig:
    """Records what is done in which order; `refuse` makes listening fail so many times."""

    def __init__(self, *now: str) -> None:
        self.done: list[tuple[str, tuple[str, ...]]] = []
        self.refuse = 0
        self.problems = Problems(logging.getLogger("test"))
        self.addresses = Addresses(*now)
        served = self.addresses.served
        rules = lambda addresses: self.done.append(("rules", addresses))  # noqa: E731
        self.dns = ClusterDns(served, self.listen, rules, self.problems, logging.getLogger("test"))

    async def listen(self, addresses: tuple[str, ...]) -> None:
        if self.refuse:
            self.refuse -= 1
            raise OSError("not now")
        self.done.append(("listen", addresses))

    async def move(self, key: Key, ips: Sequence[str], until: int) -> None:
        before = self.addresses.world
        service = Service(Meta(key.name, key.namespace), cluster_ips=tuple(ips))
        after, touched = before.apply([Change(key, service)], before.revision + 1)
        self.addresses.world = after
        self.dns.follow(before, after, touched)
        task = asyncio.create_task(self.dns.run())
        async with asyncio.timeout(5):
            while len(self.done) < until:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        task.cancel()


async def test_a_new_address_is_listened_on_before_rules_send_queries_there() -> None:
    rig = Rig()
    await rig.move(DNS_SERVICE, ["10.96.0.10"], 2)
    both = (OWN, "10.96.0.10")
    assert rig.done == [("listen", both), ("rules", both)]


async def test_a_lost_address_is_listened_on_until_rules_send_queries_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_dns, "GRACE_SECONDS", 0.001)
    rig = Rig("10.96.0.10")
    await rig.move(OTHER, ["10.96.0.10"], 2)
    assert rig.done == [("rules", (OWN,)), ("listen", (OWN,))]


async def test_what_fails_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_dns, "RETRY_SECONDS", 0.001)
    rig = Rig()
    rig.refuse = 2
    await rig.move(DNS_SERVICE, ["10.96.0.10"], 2)
    assert [step for step, _ in rig.done] == ["listen", "rules"]
    assert rig.problems.texts() == []
