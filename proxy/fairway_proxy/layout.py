"""The constant half of service balancing: sets, maps and chains of table `inet fairway`.

Everything that changes with services is a data element of a map; the only verdict maps are constants here, because adding a
verdict element makes the kernel check all of them again. DESIGN.md follows a packet through these chains.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairway_core.cidrs import never_given
from fairway_core.model.meta import FAMILIES, Family, family_of
from fairway_kernel.nft.objects import Chain, Layout, SetDecl
from fairway_proxy.marks import AFFINITY_BIT, CLASS_MASK, CT_MASK, DROP, REJECT
from fairway_proxy.slots import EXACT, WIDE

AFFINITY_TIMEOUTS = (10, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""Seconds. A rule's timeout is a constant, so a service gets the shortest of these that is long enough."""

AFFINITY_CLIENTS = 262144
CLASSES = (*range(1, EXACT + 1), *WIDE)

_IP: dict[Family, str] = {4: "ip", 6: "ip6"}
# nft 1.0.6 writes a dynamic map's data over key bytes 17 and up: an IPv6 client is its address less the first 32 bits.
_CLIENT: dict[Family, str] = {4: "ip saddr", 6: "@nh,96,96"}
_IS: dict[Family, str] = {4: "meta nfproto ipv4", 6: "meta nfproto ipv6"}
_TRANSPORT = "meta l4proto { tcp, udp, sctp }"
_SERVICE = f"ct mark & {CT_MASK:#010x}"
_NOT_NODE_PORT: dict[Family, str] = {4: "{ 127.0.0.0/8, 169.254.0.0/16 }", 6: "{ ::1, fe80::/10 }"}


def service_layout(pod_cidrs: Sequence[str]) -> Layout:
    """Sets and chains for both families. `pod_cidrs` are this node's own pod networks."""
    sets = [AFFINITY_TIMEOUT, *(decl for family in FAMILIES for decl in _sets(family))]
    chains = [*_hooks(pod_cidrs), *_dispatch(), *_pick(pod_cidrs), *_balance(), *_affinity()]
    return Layout(tuple(sets), tuple(chains))


AFFINITY_TIMEOUT = SetDecl("svc_afftime", ("ct mark",), ("meta mark",), typeof=True)


def _sets(family: Family) -> tuple[SetDecl, ...]:
    ip, address = _IP[family], f"ipv{family}_addr"
    target = (f"{ip} daddr", "th dport")
    return (
        SetDecl(f"svc{family}", (address, "inet_proto", "inet_service"), ("mark",)),
        SetDecl(f"svc_nodeport{family}", ("inet_proto", "inet_service"), ("mark",)),
        SetDecl(f"svc_inside{family}", ("mark",), ("mark",)),
        SetDecl(f"svc_vips{family}", (address,)),
        SetDecl(f"svc_guarded{family}", (address, "inet_proto", "inet_service"), ("mark",)),
        SetDecl(f"svc_allowed{family}", ("mark", address), flags=("interval",)),
        SetDecl(f"svc_hairpin{family}", (address, address)),
        # Declared by numgen: a key of type mark cannot be looked up with it, and jhash here crashes `nft list` 1.0.6.
        SetDecl(f"eps{family}", ("meta mark", "numgen random mod 65536"), target, typeof=True),
        SetDecl(f"eps_sticky{family}", ("ct mark", "meta priority"), target, typeof=True),
        SetDecl(f"svc_epid{family}", ("ct mark", *target), ("meta priority",), typeof=True),
        SetDecl(
            f"svc_aff{family}",
            ("ct mark", _CLIENT[family]),
            ("meta priority",),
            typeof=True,
            flags=("dynamic", "timeout"),
            size=AFFINITY_CLIENTS,
        ),
    )


def _hooks(pod_cidrs: Sequence[str]) -> tuple[Chain, ...]:
    # Marks are scratch: routing decides right after these hooks and must not see them.
    clean = (f"ct state new ct status & dnat != 0 {_SERVICE} != 0 meta mark set 0 meta priority set 0",)
    return (
        Chain("svc_pre", ("jump svc_dispatch",), "type nat hook prerouting priority -100; policy accept;"),
        Chain("svc_out", ("jump svc_dispatch",), "type nat hook output priority -100; policy accept;"),
        Chain("svc_clean_pre", clean, "type filter hook prerouting priority -99; policy accept;"),
        Chain("svc_clean_out", clean, "type filter hook output priority -99; policy accept;"),
        Chain("svc_post", _post(pod_cidrs), "type nat hook postrouting priority 100; policy accept;"),
    )


def _post(pod_cidrs: Sequence[str]) -> tuple[str, ...]:
    return (
        "ct status & dnat == 0 return",
        f"{_SERVICE} == 0 return",
        f"ct mark & {AFFINITY_BIT:#010x} != 0 jump svc_learn",
        # The node to itself: answers cannot go astray, and the addresses below are not of the node.
        'oifname "lo" return',
        *(_hairpin(family, [cidr for cidr in pod_cidrs if family_of(cidr) == family]) for family in FAMILIES),
        *(_masquerade(family, [cidr for cidr in pod_cidrs if family_of(cidr) == family]) for family in FAMILIES),
    )


def _hairpin(family: Family, cidrs: Sequence[str]) -> str:
    """A pod that reaches itself sees the first address of the pod range, which no pod is given and which is translated back
    before anybody has to have it. Masquerade would take the link's own address: a routed link has none, and to answer a
    link-local one over IPv6 a pod would choose another source.
    """
    ip = _IP[family]
    how = f"snat {ip} to {never_given(cidrs[0])}" if cidrs else "masquerade"
    return f"{ip} saddr . {ip} daddr @svc_hairpin{family} {how} fully-random"


def _masquerade(family: Family, cidrs: Sequence[str]) -> str:
    """A client that is no pod here, sent to an endpoint that is no pod here: its answers must come back this way."""
    ip, here = _IP[family], ", ".join(sorted(cidrs))
    match = f"{ip} saddr != {{ {here} }} {ip} daddr != {{ {here} }}" if cidrs else _IS[family]
    return f"{match} masquerade fully-random"


def _dispatch() -> tuple[Chain, ...]:
    # loadBalancerSourceRanges, before the address is translated. By service, so that ranges of two services never overlap.
    guarded = (
        f"meta mark set {ip} daddr . meta l4proto . th dport map @svc_guarded{family} "
        f"meta mark . {ip} saddr != @svc_allowed{family} goto svc_drop"
        for family, ip in _IP.items()
    )
    known = (f"meta mark set {ip} daddr . meta l4proto . th dport map @svc{family} goto svc_pick" for family, ip in _IP.items())
    unknown = (f"{ip} daddr @svc_vips{family} goto svc_reject" for family, ip in _IP.items())
    node = (
        f"{ip} daddr != {_NOT_NODE_PORT[family]} meta mark set meta l4proto . th dport map @svc_nodeport{family} goto svc_pick"
        for family, ip in _IP.items()
    )
    return (
        Chain("svc_dispatch", (*guarded, *known, *unknown, "fib daddr type local goto svc_node")),
        Chain("svc_node", tuple(node)),
    )


def _pick(pod_cidrs: Sequence[str]) -> tuple[Chain, ...]:
    verdicts = [f"{REJECT} : goto svc_reject", *(f"{k} : goto lb_{k}" for k in CLASSES), f"{DROP} : goto svc_drop"]
    # The connection mark is a scratch register here: it is written for good right after.
    two_sided = (f"{_IS[family]} ct mark set meta mark map @svc_inside{family} jump svc_inside" for family in FAMILIES)
    return (
        Chain(
            "svc_pick",
            (
                *two_sided,
                f"ct mark set meta mark & {CT_MASK:#010x}",
                f"meta mark & {AFFINITY_BIT:#010x} != 0 jump svc_sticky",
                f"meta mark & {CLASS_MASK:#010x} vmap {{ {', '.join(verdicts)} }}",
            ),
        ),
        Chain("svc_inside", _inside(pod_cidrs)),
        # In a NAT hook (kernel 5.9 and later) a rejected packet leaves no connection behind, so UDP senders recover at once.
        Chain("svc_reject", ("meta l4proto tcp reject with tcp reset", "reject")),
        Chain("svc_drop", ("drop",)),
    )


def _inside(pod_cidrs: Sequence[str]) -> tuple[str, ...]:
    """externalTrafficPolicy is about clients outside: pods of this node and the node itself take the other mark."""
    pods = (
        f"{ip} saddr {{ {', '.join(cidrs)} }} meta mark set ct mark return"
        for family, ip in _IP.items()
        if (cidrs := sorted(cidr for cidr in pod_cidrs if family_of(cidr) == family))
    )
    return (*pods, "fib saddr type local meta mark set ct mark")


def _balance() -> tuple[Chain, ...]:
    def rules(k: int) -> tuple[str, ...]:
        return tuple(
            f"{_IS[family]} {_TRANSPORT} dnat {ip} to meta mark . numgen random mod {k} map @eps{family}"
            for family, ip in _IP.items()
        )

    return tuple(Chain(f"lb_{k}", rules(k)) for k in CLASSES)


def _affinity() -> tuple[Chain, ...]:
    # One rule each: a failed lookup ends the rule, so a stale entry (endpoint gone) falls back to a fresh choice.
    stick = tuple(
        f"{_IS[family]} meta priority set ct mark . {_CLIENT[family]} map @svc_aff{family} "
        f"{_TRANSPORT} dnat {ip} to ct mark . meta priority map @eps_sticky{family}"
        for family, ip in _IP.items()
    )
    learn = (
        f"meta priority set {_SERVICE} . {ip} daddr . th dport map @svc_epid{family} goto svc_learn{family}"
        for family, ip in _IP.items()
    )
    return (
        Chain("svc_sticky", stick),
        Chain("svc_learn", tuple(learn)),
        *(Chain(f"svc_learn{family}", _learn(family)) for family in FAMILIES),
        *(Chain(f"svc_keep_{seconds}", _keep(seconds)) for seconds in AFFINITY_TIMEOUTS),
    )


def _learn(family: Family) -> tuple[str, ...]:
    """Remember the endpoint of this client. `update` alone would keep the old endpoint of an existing entry, hence the delete."""
    timeouts = ", ".join(f"{seconds} : goto svc_keep_{seconds}" for seconds in AFFINITY_TIMEOUTS)
    return (
        f"delete @svc_aff{family} {{ {_SERVICE} . {_CLIENT[family]} : meta priority }}",
        f"meta mark set {_SERVICE} map @svc_afftime meta mark vmap {{ {timeouts} }}",
    )


def _keep(seconds: int) -> tuple[str, ...]:
    update = (
        f"{_IS[family]} update @svc_aff{family} {{ {_SERVICE} . {client} timeout {seconds}s : meta priority }}"
        for family, client in _CLIENT.items()
    )
    return (*update, "meta mark set 0 meta priority set 0")
