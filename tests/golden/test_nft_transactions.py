"""The exact scripts that go to the kernel."""

from __future__ import annotations

from fairway_core.delta import Delta
from fairway_kernel.nft.fields import shape_of
from fairway_kernel.nft.markers import layout_digest, part_of, rules_digest
from fairway_kernel.nft.objects import INET, Chain, ChainState, ElementValue, Layout, Range, SetDecl, Slot, TableState
from fairway_kernel.nft.plan import plan_structure, stamp
from fairway_kernel.nft.transaction import add_layout, element_delta

SVC = SetDecl("svc", ("ipv4_addr", "inet_proto", "inet_service"), ("mark",))
EPS = SetDecl("eps", ("meta mark", "numgen random mod 65536"), ("ip daddr", "th dport"), typeof=True, counter=True)
AFF = SetDecl("aff", ("ip saddr", "ct mark"), ("ip daddr", "th dport"), True, ("dynamic", "timeout"), 1000, "3h")
IDS = SetDecl("ids", ("classid",), ("classid",))
CIDR = SetDecl("cidr", ("mark", "ipv4_addr", "inet_service"), ("verdict",), flags=("interval",))
BASE = Chain("base", ("jump pick", "meta mark 1 drop"), "type filter hook forward priority filter; policy accept;")
PICK = Chain("pick")
LAYOUT = Layout((SVC, EPS, AFF, IDS, CIDR), (BASE, PICK))
CHAINS = {chain.name: chain for chain in LAYOUT.chains}


def test_a_layout() -> None:
    assert str(add_layout(LAYOUT, (INET,))) == (
        "add table inet fairway\n"
        "add map inet fairway svc { type ipv4_addr . inet_proto . inet_service : mark; }\n"
        "add map inet fairway eps { typeof meta mark . numgen random mod 65536 : ip daddr . th dport; counter; }\n"
        "add map inet fairway aff { typeof ip saddr . ct mark : ip daddr . th dport; size 1000; "
        "flags dynamic, timeout; timeout 3h; }\n"
        "add map inet fairway ids { type classid : classid; }\n"
        "add map inet fairway cidr { type mark . ipv4_addr . inet_service : verdict; flags interval; }\n"
        "add chain inet fairway base { type filter hook forward priority filter; policy accept; }\n"
        "flush chain inet fairway base\n"
        "add chain inet fairway pick\n"
        "flush chain inet fairway pick\n"
        "add rule inet fairway base jump pick\n"
        "add rule inet fairway base meta mark 1 drop\n"
    )


def test_a_delta_deletes_first_and_follows_the_order_of_the_declarations() -> None:
    delta: Delta[Slot, ElementValue] = Delta(
        add={
            Slot("cidr", (5, Range("10.0.0.0", "10.0.0.255"), Range(443, 443))): "goto pick",
            Slot("svc", ("10.96.0.1", "tcp", 80)): (4097,),
            Slot("ids", (0x1001F,)): (2,),
        },
        change={Slot("eps", (4097, 0)): (("10.0.0.1", 80), ("10.0.0.2", 80))},
        delete={Slot("svc", ("10.96.0.2", "udp", 53)): (8193,)},
    )
    assert str(element_delta(delta, {decl.name: decl for decl in LAYOUT.sets})) == (
        "delete element inet fairway svc { 10.96.0.2 . udp . 53 }\n"
        "delete element inet fairway eps { 4097 . 0 }\n"
        "add element inet fairway svc { 10.96.0.1 . tcp . 80 : 4097 }\n"
        "add element inet fairway eps { 4097 . 0 : 10.0.0.2 . 80 }\n"
        "add element inet fairway ids { 1:1f : 0:2 }\n"
        "add element inet fairway cidr { 5 . 10.0.0.0-10.0.0.255 . 443-443 : goto pick }\n"
    )


def test_a_missing_table_is_built_with_its_marker() -> None:
    small = Layout((SVC,), (BASE, PICK))
    plan = plan_structure(INET, part_of(small, INET), CHAINS, None)
    assert str(plan.transaction) == (
        "add table inet fairway\n"
        f"add chain inet fairway layout_{layout_digest(small)}\n"
        "add map inet fairway svc { type ipv4_addr . inet_proto . inet_service : mark; }\n"
        "add chain inet fairway base { type filter hook forward priority filter; policy accept; }\n"
        "add chain inet fairway pick\n"
        "add rule inet fairway base jump pick\n"
        "add rule inet fairway base meta mark 1 drop\n"
    )


def test_an_upgrade_empties_then_removes_then_adds_and_fills() -> None:
    older = TableState(
        sets=frozenset({"svc", "old"}),
        chains=frozenset({"base", "gone"}),
        elements={Slot("svc", ("10.96.0.1", "tcp", 80)): (4097,)},
        layout_hash="0" * 16,
        rules_hash="1" * 16,
        markers=frozenset({"layout_" + "0" * 16, "rules_" + "1" * 16}),
        shapes={
            "svc": shape_of(SetDecl("svc", SVC.key, SVC.value, size=10)),
            "old": shape_of(SetDecl("old", ("mark",), ("verdict",))),
        },
        chain_states={"base": ChainState(1, "filter 2 0 1", (4, 5)), "gone": ChainState(2)},
    )
    small = Layout((SVC,), (BASE, PICK))
    plan = plan_structure(INET, small, CHAINS, older)
    assert plan.kept == older.elements
    assert str(plan.transaction) == (
        "add table inet fairway\n"
        "flush chain inet fairway base\n"
        "flush chain inet fairway gone\n"
        "delete map inet fairway old\n"
        "delete map inet fairway svc\n"
        "delete chain inet fairway base\n"
        "delete chain inet fairway gone\n"
        "delete chain inet fairway layout_0000000000000000\n"
        "delete chain inet fairway rules_1111111111111111\n"
        f"add chain inet fairway layout_{layout_digest(small)}\n"
        "add map inet fairway svc { type ipv4_addr . inet_proto . inet_service : mark; }\n"
        "add chain inet fairway base { type filter hook forward priority filter; policy accept; }\n"
        "add chain inet fairway pick\n"
        "add rule inet fairway base jump pick\n"
        "add rule inet fairway base meta mark 1 drop\n"
        "add element inet fairway svc { 10.96.0.1 . tcp . 80 : 4097 }\n"
    )


def test_an_intact_table_needs_nothing() -> None:
    chains = {"base": ChainState(1, "filter 2 0 1", (4, 5)), "pick": ChainState(2)}
    small = Layout((SVC,), (BASE, PICK))
    digest = rules_digest(chains)
    state = TableState(
        frozenset({"svc"}), frozenset(chains), {}, layout_digest(small), digest, frozenset({"rules_" + digest}),
        {"svc": shape_of(SVC)}, chains,
    )  # fmt: skip
    plan = plan_structure(INET, small, CHAINS, state)
    assert (str(plan.transaction), plan.faults) == ("", ())
    assert str(stamp(INET, state)) == ""


def test_the_rules_marker_moves() -> None:
    chains = {"base": ChainState(1, "filter 2 0 1", (4, 6))}
    state = TableState(
        chains=frozenset(chains), rules_hash="1" * 16, markers=frozenset({"rules_" + "1" * 16}), chain_states=chains
    )
    assert str(stamp(INET, state)) == (
        f"delete chain inet fairway rules_1111111111111111\nadd chain inet fairway rules_{rules_digest(chains)}\n"
    )
