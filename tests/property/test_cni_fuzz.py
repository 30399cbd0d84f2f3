"""Whatever bytes arrive, the parser answers or raises CniError; the pool never gives one address twice."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fairway_cni.faults import CniError
from fairway_cni.ipam import AddressPool
from fairway_cni.protocol import parse, version_of
from fairway_core.errors import ExhaustedError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["cniVersion", "name", "mode", "mtu", "namespace", "args", "runtimeConfig", "RUNTIMECONFIG", "dns", "prevResult", "ipam"]
)
RUNTIME = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("portMappings", "bandwidth", "ips", "mac", "dns", "aliases", "ipRanges"), JSON)
)
CONF = st.dictionaries(FIELDS, JSON, max_size=5)
ENV = st.dictionaries(
    st.sampled_from(["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"]),
    st.sampled_from(["ADD", "DEL", "GC", "CHECK", "eth0", "c1", "a=b;IgnoreUnknown=1"])
    | st.text(max_size=12).filter(lambda t: "\0" not in t),
)


def holds(body: bytes) -> None:
    with suppress(CniError):
        parse(body)
    assert version_of(body)


@given(st.binary(max_size=300))
def test_any_bytes(body: bytes) -> None:
    holds(body)


@settings(max_examples=150)
@given(ENV, CONF, RUNTIME, st.sampled_from([["ADD", "c1", "eth0"], []]))
def test_any_configuration(env: dict[str, str], conf: dict[str, Any], runtime: dict[str, Any], good: list[str]) -> None:
    if good:
        env = {**env, **dict(zip(("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME"), good, strict=True)), "CNI_NETNS": "/n"}
        conf = {"cniVersion": "1.1.0", "name": "n", **conf}
    conf.setdefault("runtimeConfig", runtime)
    head = b"".join(f"{key}={value}".encode("utf-8", "surrogatepass") + b"\0" for key, value in env.items())
    holds(head + b"\0" + json.dumps(conf).encode())


class PoolMachine(RuleBasedStateMachine):
    """A pool of six IPv4 addresses and plenty of IPv6 against a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = AddressPool(["10.0.0.0/29", "fd00::/64"])
        self.held: dict[str, tuple[str, ...]] = {}
        self.freed: list[str] = []
        self.serial = 0

    @rule()
    def allocate(self) -> None:
        owner = f"o{self.serial}"
        self.serial += 1
        try:
            ips = self.pool.allocate(owner)
        except ExhaustedError:
            assert len(self.held) == 5
            return
        assert not {ip for other in self.held.values() for ip in other} & set(ips)
        free = {f"10.0.0.{n}" for n in range(2, 7)} - {other[0] for other in self.held.values()}
        never_used = free - set(self.freed)
        assert ips[0] in never_used if never_used else ips[0] == next(ip for ip in self.freed if ip in free)
        self.held[owner] = ips
        self.freed = [ip for ip in self.freed if ip != ips[0]]

    @precondition(lambda self: bool(self.held))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        owner = data.draw(st.sampled_from(sorted(self.held)))
        ips = self.held.pop(owner)
        self.pool.release(ips, owner)
        self.pool.release(ips, owner)
        self.freed.append(ips[0])

    @invariant()
    def owners_agree(self) -> None:
        for owner, ips in self.held.items():
            assert {self.pool.owner_of(ip) for ip in ips} == {owner}
        assert bool(self.pool.exhausted) == (len(self.held) == 5)


PoolMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestPool = PoolMachine.TestCase
