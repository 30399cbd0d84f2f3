"""What this kernel can do, found out by doing it: each feature in a throw-away network namespace, never on the node itself.

Version numbers and configuration files lie (back-ports, modules that are not installed); a transaction that commits does not.
Loading a missing module, as the agent would cause too, is the only effect outside the throw-away namespace.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fairway_core.errors import KernelError
from fairway_kernel import netns
from fairway_kernel.conntrack import Conntrack
from fairway_kernel.link.manager import KernelLinks
from fairway_kernel.link.objects import Bridge, Shape, Veth
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import BRIDGE, INET, Chain, Layout, SetDecl
from fairway_kernel.nft.transaction import DeleteTable, Transaction, add_layout

CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21
"""Bits of a capability set (capabilities(7))."""
LIMITS = "rate limits"
"""The feature that a node can do without, as long as no network asks for bandwidth."""
_MAC = "02:00:00:00:00:%02x"
_FILTER = "type filter hook %s priority filter; policy accept;"


@dataclass(frozen=True, slots=True)
class Trial:
    """The outcome of trying one thing; `error` is empty if it works."""

    name: str
    error: str = ""


def capabilities() -> int:
    """The effective capabilities of this process, as a bit set (proc(5), CapEff)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


def kernel_release() -> tuple[tuple[int, int], str]:
    """Version of the running kernel as numbers, and its full text."""
    text = os.uname().release
    numbers = [int("".join(c for c in part if c.isdigit()) or 0) for part in text.split("-")[0].split(".")[:2]]
    return (numbers[0], numbers[1] if len(numbers) > 1 else 0), text


def try_library() -> Trial:
    """Can libnftables be loaded at all."""
    return _attempt("libnftables", lambda: LibnftablesRunner().close(), (KernelError, ImportError))


def try_nft(features: Mapping[str, Layout] | None = None) -> list[Trial]:
    """Every nftables feature our rules are made of, one transaction each. Raises KernelError without CAP_SYS_ADMIN."""
    with netns.scratch() as here:
        runner = LibnftablesRunner(here)
        try:
            tried = FEATURES if features is None else features
            return [_attempt(name, partial(_load, runner, layout)) for name, layout in tried.items()]
        finally:
            runner.close()


def _load(runner: LibnftablesRunner, layout: Layout) -> None:
    tables = sorted({chain.table for chain in layout.chains})
    runner.run(add_layout(layout, tables))
    runner.run(Transaction([DeleteTable(table) for table in tables]))


def try_links() -> list[Trial]:
    """Wire a container in each mode. Raises KernelError without CAP_SYS_ADMIN."""
    with netns.scratch() as node, netns.scratch() as container:
        links = KernelLinks(node)
        try:
            return list(_wire(links, container))
        finally:
            links.close()


def _wire(links: KernelLinks, container: str) -> Iterator[Trial]:
    bridge = Bridge("fw-probe", _MAC % 1, ("169.254.1.1/32",))
    pair = Veth("fwr-probe", container, "eth0", _MAC % 2, ("192.0.2.1",), 1500, "fairway probe", _MAC % 1)
    ported = Veth("fwb-probe", container, "eth1", _MAC % 3, ("192.0.2.2",), 1500, "fairway probe", _MAC % 1, "fw-probe")
    yield _attempt("veth pair", lambda: links.attach(pair))
    yield _attempt("bridge", lambda: links.ensure_bridge(bridge))
    # Two interfaces in one container would fight for the default route.
    links.detach(pair.host_ifname, pair.ips)
    yield _attempt("isolated bridge port", lambda: links.attach(ported))
    links.detach(ported.host_ifname, ported.ips)
    yield _attempt(LIMITS, lambda: links.attach(replace(pair, shape=Shape(1 << 20, 0, 1 << 20, 0))))


def try_conntrack() -> Trial:
    """Read the table of tracked connections. Raises KernelError without CAP_SYS_ADMIN."""
    with netns.scratch() as here:
        tracked = Conntrack(here)
        try:
            return _attempt("connection tracking", tracked.entries)
        finally:
            tracked.close()


def _attempt(name: str, action: Callable[[], object], expected: tuple[type[Exception], ...] = (KernelError,)) -> Trial:
    try:
        action()
    except expected as error:
        return Trial(name, str(error))
    return Trial(name)


def _rules(*rules: str, hook: str = _FILTER % "forward", sets: tuple[SetDecl, ...] = ()) -> Layout:
    return Layout(sets, (Chain("probe", rules, hook),))


def _nat(*rules: str, hook: str, sets: tuple[SetDecl, ...] = ()) -> Layout:
    return _rules(*rules, hook=f"type nat hook {hook}; policy accept;", sets=sets)


_ENDPOINTS = SetDecl("probe_eps", ("meta mark", "numgen random mod 65536"), ("ip daddr", "th dport"), typeof=True)
_CLIENTS = SetDecl("probe_aff", ("ct mark", "ip saddr"), ("meta priority",), typeof=True, flags=("dynamic", "timeout"), size=16)
_PROFILE = SetDecl("probe_profile", ("mark", "inet_proto", "inet_service"), flags=("interval",))
_PINS = SetDecl("probe_pins", ("ifname", "ether_addr", "ipv4_addr"), table=BRIDGE)

FEATURES: Mapping[str, Layout] = {
    "nft inet tables": Layout((), (Chain("probe", ("counter",), _FILTER % "forward", INET),)),
    "nft bridge tables": Layout(
        (_PINS,),
        (
            Chain(
                "probe",
                (
                    "iifname . arp saddr ether . arp saddr ip @probe_pins accept",
                    "iifname . ether saddr . ip saddr @probe_pins accept",
                ),
                "type filter hook prerouting priority -300; policy accept;",
                BRIDGE,
            ),
        ),
    ),
    "nft connection marks": _rules("ct state established ct mark set ct mark & 0xfffff000 | 0x00000005"),
    "nft verdict maps": _rules("meta mark vmap { 1 : accept, 2 : drop }"),
    "nft ranges in concatenations": _rules("meta mark . meta l4proto . th dport @probe_profile accept", sets=(_PROFILE,)),
    "nft sets filled by packets": _rules(
        "update @probe_aff { ct mark . ip saddr timeout 60s : meta priority }", sets=(_CLIENTS,)
    ),
    "nft balancing maps": _nat(
        "meta l4proto tcp dnat ip to meta mark . numgen random mod 16 map @probe_eps",
        hook="prerouting priority -100",
        sets=(_ENDPOINTS,),
    ),
    "nft address translation of the node's own traffic": _nat(
        "meta l4proto tcp dnat ip6 to [2001:db8::1]:80", hook="output priority -100"
    ),
    "nft source address translation": _nat(
        "ip saddr 192.0.2.0/24 masquerade fully-random",
        "ip6 saddr 2001:db8::/64 snat ip6 to 2001:db8::1 fully-random",
        hook="postrouting priority 100",
    ),
    "nft routing look-ups": _rules("fib daddr type local accept", hook=_FILTER % "prerouting"),
    "nft reject": _rules("meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"),
    "nft log": _rules('limit rate 50/second burst 100 packets log prefix "probe " group 7 snaplen 96'),
    "nft notrack": _rules("udp dport 53 notrack", hook="type filter hook prerouting priority raw; policy accept;"),
}
"""What our rules are made of, smallest example each."""
