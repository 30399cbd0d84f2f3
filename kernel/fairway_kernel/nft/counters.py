"""Counters of rules, found by the comment of the rule: what a scrape of the metrics reads.

Promise: asks for the named chains only, so the cost does not depend on the number of sets, elements or other rules.
Source: include/uapi/linux/netfilter/nf_tables.h (nft_rule_attributes, nft_counter_attributes); libnftnl udata.h for the comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from fairway_kernel.netlink import NETLINK_NETFILTER, NLM_F_DUMP, Request, SocketPool
from fairway_kernel.nft import wire
from fairway_kernel.nft.objects import Chain

_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 1, 2, 4, 7
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2
_COMMENT = 0


@dataclass(frozen=True, slots=True)
class Count:
    """What one rule has counted since it was written."""

    comment: str
    packets: int
    octets: int


def counted(chains: Iterable[Chain]) -> tuple[Chain, ...]:
    """The chains that have a rule with a counter and a comment. Pure."""
    return tuple(chain for chain in chains if any("counter" in rule and "comment" in rule for rule in chain.rules))


class CounterReader:
    """Reads the commented counters of `chains`, in the namespace at `netns` or the caller's. Safe for many threads."""

    def __init__(self, chains: Iterable[Chain], netns: str | None = None) -> None:
        self._chains = counted(chains)
        self._pool = SocketPool(netns, NETLINK_NETFILTER)

    def read(self) -> list[Count]:
        """One entry per commented counter, in the order of chains and rules; nothing for a chain that is not there.

        Raises KernelError.
        """
        found: list[Count] = []
        with self._pool.lend() as channel:
            for chain in self._chains:
                found += (count for reply in channel.query(_rules_of(chain)) for count in _count(reply.payload[4:]))
        return found

    def close(self) -> None:
        self._pool.close()


def _rules_of(chain: Chain) -> Request:
    header = bytes((wire.FAMILIES[chain.table.family], 0, 0, 0))
    names = wire.name_attribute(_RULE_TABLE, chain.table.name) + wire.name_attribute(_RULE_CHAIN, chain.name)
    return Request(wire.SUBSYSTEM << 8 | wire.GETRULE, header + names, f"read the counters of {chain.name}", NLM_F_DUMP)


def _count(body: bytes) -> Iterator[Count]:
    rule = dict(wire.attributes(body))
    comment = _comment(rule.get(_RULE_USERDATA, b""))
    if not comment:
        return
    for _kind, item in wire.attributes(rule.get(_RULE_EXPRESSIONS, b"")):
        expression = dict(wire.attributes(item))
        if wire.text(expression.get(_EXPRESSION_NAME, b"")) == "counter":
            data = dict(wire.attributes(expression.get(_EXPRESSION_DATA, b"")))
            yield Count(comment, wire.number(data.get(_COUNTER_PACKETS, b"")), wire.number(data.get(_COUNTER_BYTES, b"")))


def _comment(userdata: bytes) -> str:
    """libnftnl packs user data as type, length, value, one octet each for the first two."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return wire.text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return ""
