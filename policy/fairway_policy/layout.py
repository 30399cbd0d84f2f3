"""The constant rule set: sets, maps and chains of table `inet fairway` that judge forwarded packets.

Registers: `meta priority` holds the source identity and `meta mark` the destination identity, later the profile; 0 means an
address of no pod. Both are zeroed before a packet leaves. A map look-up that finds nothing leaves its register alone: the
identity stays there, and as identities are below 2**31 and profiles above, it then matches nothing and the packet is denied.
Packets of reply direction run through twin chains with source and destination exchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

from fairway_core.model.meta import Family
from fairway_kernel.nft.objects import INET, Chain, Layout, SetDecl

PROFILE_BIT = 0x8000_0000
ALL_PROFILE = 0x8000_0001
"""The profile of "every protocol and port"; a constant of the rules, it has no elements."""
DENY_LOG_GROUP = 7
FORWARD = "policy_forward"
FAST = "policy_fast"
STAMP = "policy_stamp"

ISOLATED_EGRESS = SetDecl("policy_isolated_egress", ("classid",))
ISOLATED_INGRESS = SetDecl("policy_isolated_ingress", ("mark",))
PAIR_EGRESS = SetDecl("policy_pair_egress", ("classid", "mark"), ("mark",))
PAIR_INGRESS = SetDecl("policy_pair_ingress", ("classid", "mark"), ("mark",))
BASE_EGRESS = SetDecl("policy_base_egress", ("classid",), ("mark",))
BASE_INGRESS = SetDecl("policy_base_ingress", ("mark",), ("mark",))
WORLD_EGRESS = SetDecl("policy_world_egress", ("classid",), ("mark",))
WORLD_INGRESS = SetDecl("policy_world_ingress", ("mark",), ("mark",))
PROFILE = SetDecl("policy_profile", ("mark", "inet_proto", "inet_service"), flags=("interval",))
GENERATION = SetDecl("policy_generation", ("mark",))
"""Book-keeping only: the generation in force, for an agent that starts anew."""


@dataclass(frozen=True, slots=True)
class FamilySets:
    """The sets that exist once per address family."""

    source: SetDecl
    destination: SetDecl
    cidr: SetDecl
    cidr_port: SetDecl
    self: SetDecl


def _family_sets(family: Family) -> FamilySets:
    address = "ipv4_addr" if family == 4 else "ipv6_addr"
    return FamilySets(
        SetDecl(f"policy_source{family}", (address,), ("classid",)),
        SetDecl(f"policy_destination{family}", (address,), ("mark",)),
        SetDecl(f"policy_cidr{family}", ("mark", address), flags=("interval",)),
        SetDecl(f"policy_cidrport{family}", ("mark", address, "inet_proto", "inet_service"), flags=("interval",)),
        SetDecl(f"policy_self{family}", (address, address)),
    )


FAMILY_SETS: dict[Family, FamilySets] = {4: _family_sets(4), 6: _family_sets(6)}
_WORDS: dict[Family, str] = {4: "ip", 6: "ip6"}


@dataclass(frozen=True, slots=True)
class _Way:
    """How the chains name the two ends of the connection in packets of one direction."""

    suffix: str
    source: str
    destination: str
    port: str


_REQUEST = _Way("", "saddr", "daddr", "dport")
_REPLY = _Way("_reply", "daddr", "saddr", "sport")
_FORGET = ("meta priority set 0:0", "meta mark set 0")


def _load_source(way: _Way) -> tuple[str, ...]:
    return tuple(f"meta priority set {w} {way.source} map @policy_source{f}" for f, w in _WORDS.items())


def _load_destination(way: _Way) -> tuple[str, ...]:
    return tuple(f"meta mark set {w} {way.destination} map @policy_destination{f}" for f, w in _WORDS.items())


def _evaluate(way: _Way) -> Chain:
    """Egress of the source, then ingress of the destination; only isolated ends cost more than two set look-ups."""
    s = way.suffix
    return Chain(
        f"policy_evaluate{s}",
        (
            *_FORGET,
            *_load_source(way),
            *_load_destination(way),
            f"meta priority @policy_isolated_egress jump policy_source{s}",
            f"meta mark @policy_isolated_ingress jump policy_ingress{s}",
            *_FORGET,
            f"jump {STAMP}",
            "accept",
        ),
    )


def _source(way: _Way) -> Chain:
    """Judge egress, then put the destination identity back, which the egress chains have overwritten."""
    rules = (f"jump policy_egress{way.suffix}", "meta mark set 0", *_load_destination(way))
    return Chain(f"policy_source{way.suffix}", rules)


def _profile(way: _Way, deny: str) -> tuple[str, ...]:
    return (
        f"meta mark {ALL_PROFILE:#x} return",
        f"meta mark . meta l4proto . th {way.port} @policy_profile return",
        f"goto {deny}",
    )


def _pods(way: _Way, direction: str, world: str, subject: str) -> Chain:
    """Between two pods: the profile of the pair, else what the subject allows to everybody."""
    s = way.suffix
    return Chain(
        f"policy_{direction}{s}",
        (
            f"{world} goto policy_{direction}_world{s}",
            f"meta mark set meta priority . meta mark map @policy_pair_{direction}",
            f"meta mark & {PROFILE_BIT:#x} == 0 meta mark set {subject} map @policy_base_{direction}",
            *_profile(way, f"policy_deny_{direction}"),
        ),
    )


def _world(way: _Way, direction: str, subject: str, peer: str) -> Chain:
    """Between a pod and an address of no pod: one profile for all addresses, or one cut by address."""
    cidr: list[str] = []
    for family, word in _WORDS.items():
        cidr.append(f"meta mark . {word} {peer} @policy_cidr{family} return")
        cidr.append(f"meta mark . {word} {peer} . meta l4proto . th {way.port} @policy_cidrport{family} return")
    rules = _profile(way, f"policy_deny_{direction}")
    return Chain(
        f"policy_{direction}_world{way.suffix}",
        (f"meta mark set {subject} map @policy_world_{direction}", *rules[:-1], *cidr, rules[-1]),
    )


def _deny(direction: str) -> Chain:
    """A pod that talks to itself through a service comes back to the caller; everything else ends here.

    The log is limited, the counter behind it is exact.
    """
    return Chain(
        f"policy_deny_{direction}",
        (
            *(f"{word} saddr . {word} daddr @policy_self{family} return" for family, word in _WORDS.items()),
            f'limit rate 50/second burst 100 packets log prefix "fairway-deny-{direction} " group {DENY_LOG_GROUP} snaplen 96',
            f'counter comment "denied-{direction}"',
            "meta l4proto tcp reject with tcp reset",
            "reject with icmpx admin-prohibited",
        ),
    )


def _invalid() -> Chain:
    """Packets conntrack cannot place (it would not translate their addresses) are dropped where a pod is at either end; traffic
    that is none of ours passes.
    """
    return Chain(
        "policy_invalid",
        (
            *_FORGET,
            *_load_source(_REQUEST),
            *_load_destination(_REQUEST),
            'meta priority != 0:0 counter drop comment "invalid-from-pod"',
            'meta mark != 0 counter drop comment "invalid-to-pod"',
            "accept",
        ),
    )


def _forward() -> Chain:
    return Chain(
        FORWARD,
        (
            "ct state invalid goto policy_invalid",
            # Only errors about a connection that was let through; what a conntrack helper expects is judged like anything else.
            "ct state related meta l4proto { icmp, ipv6-icmp } accept",
            f"jump {FAST}",
            "ct direction reply goto policy_evaluate_reply",
            "goto policy_evaluate",
        ),
        "type filter hook forward priority filter; policy accept;",
    )


def _chains_of(way: _Way) -> tuple[Chain, ...]:
    return (
        _world(way, "egress", "meta priority", way.destination),
        _pods(way, "egress", "meta mark 0", "meta priority"),
        _world(way, "ingress", "meta mark", way.source),
        _pods(way, "ingress", "meta priority 0:0", "meta mark"),
        _source(way),
        _evaluate(way),
    )


def policy_layout() -> Layout:
    """Everything of this component in table `inet fairway`.

    The chains `policy_fast` and `policy_stamp` are empty here: without a generation every packet is judged. Whoever applies this
    layout fills them with `generation_chains` in the same transaction.
    """
    families = tuple(FAMILY_SETS.values())
    per_family = tuple(
        decl for sets in families for decl in (sets.source, sets.destination, sets.self, sets.cidr, sets.cidr_port)
    )
    pairs = (ISOLATED_EGRESS, ISOLATED_INGRESS, PAIR_EGRESS, PAIR_INGRESS)
    subjects = (BASE_EGRESS, BASE_INGRESS, WORLD_EGRESS, WORLD_INGRESS)
    chains = (
        Chain(FAST, table=INET),
        Chain(STAMP, table=INET),
        _deny("egress"),
        _deny("ingress"),
        *_chains_of(_REQUEST),
        *_chains_of(_REPLY),
        _invalid(),
        _forward(),
    )
    return Layout((*per_family, *pairs, *subjects, PROFILE, GENERATION), chains)
