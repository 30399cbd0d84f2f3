"""What every runner promises, held against the fake and against the kernel."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator

import pytest

from fairway_core.errors import KernelError
from fairway_kernel.nft.fake import FakeRunner
from fairway_kernel.nft.fields import shape_of
from fairway_kernel.nft.libnft import LibnftablesRunner
from fairway_kernel.nft.objects import BRIDGE, INET, Chain, ElementKey, ElementValue, Layout, Range, SetDecl, Slot, Table
from fairway_kernel.nft.runner import NftRunner
from fairway_kernel.nft.transaction import (
    AddChain,
    AddElements,
    AddRules,
    AddSet,
    AddTable,
    DeleteChain,
    DeleteElements,
    DeleteSet,
    DeleteTable,
    FlushChain,
    Transaction,
    add_layout,
)

pytestmark = pytest.mark.needs_root

Items = dict[ElementKey, ElementValue]


@pytest.fixture(params=["fake", "kernel", "text"])
def runner(request: pytest.FixtureRequest) -> Iterator[NftRunner]:
    if request.param == "fake":
        yield FakeRunner()
        return
    make: Callable[[str], str] = request.getfixturevalue("namespaces")
    real = LibnftablesRunner(make("nft"), elements_over_netlink=request.param == "kernel")
    yield real
    real.close()


def v6(number: int) -> str:
    return f"fd00::{number:x}"


ALL4, ALL6, ALL_PORTS = Range("0.0.0.0", "255.255.255.255"), Range("::", "f" + ":".join(["fff"] + ["ffff"] * 7)), Range(0, 65535)
DENY = Chain("deny_in")

SHAPES: list[tuple[SetDecl, Items]] = [
    (
        SetDecl("svc", ("ipv4_addr", "inet_proto", "inet_service"), ("mark",)),
        {("10.96.0.1", "tcp", 443): (4097,), ("10.96.0.1", "udp", 53): (0xFFFFFFFF,), ("1.2.3.4", "sctp", 22): (7,)},
    ),
    (
        SetDecl("svc6", ("ipv6_addr", "inet_proto", "inet_service"), ("mark",)),
        {("fd00::1", "tcp", 80): (4097,), ("::1", "udp", 53): (1,), ("::ffff:102:304", "tcp", 1): (2,)},
    ),
    (SetDecl("nodeport", ("inet_proto", "inet_service"), ("mark",)), {("tcp", 30080): (4097,)}),
    (
        SetDecl("eps", ("meta mark", "numgen random mod 65536"), ("ip daddr", "th dport"), typeof=True, counter=True),
        {(4097, 0): ("10.0.0.2", 8443), (4097, 65535): ("10.0.0.3", 1)},
    ),
    (
        SetDecl("eps6", ("meta mark", "numgen random mod 65536"), ("ip6 daddr", "th dport"), typeof=True),
        {(4097, 258): (v6(2), 8443)},
    ),
    (SetDecl("source", ("ipv4_addr",), ("classid",)), {("10.0.0.1",): (2,), ("10.0.0.2",): (0x1001F,)}),
    (SetDecl("destination", ("ipv6_addr",), ("mark",)), {(v6(1),): (5,)}),
    (SetDecl("isolated", ("classid",)), {(2,): (), (0xFFFFFFFF,): (), (0x10000,): ()}),
    (
        SetDecl("pair", ("meta priority", "meta mark"), ("meta mark",), typeof=True),
        {(2, 1): (2147483650,), (0x20003, 258): (1,)},
    ),
    (SetDecl("base", ("classid",), ("mark",)), {(16,): (16,)}),
    (
        SetDecl("cidr_verdict", ("meta mark", "ip saddr", "meta l4proto", "th dport"), ("verdict",), True, ("interval",)),
        {
            (1, ALL4, "tcp", ALL_PORTS): "goto deny_in",
            (2, Range("10.0.0.0", "10.0.0.255"), "udp", Range(53, 53)): "accept",
            (258, Range("10.1.2.3", "10.1.2.3"), "sctp", Range(443, 443)): "return",
            (4, Range("10.0.0.3", "10.0.0.9"), "tcp", Range(80, 90)): "drop",
        },
    ),
    (
        SetDecl("cidr_verdict6", ("meta mark", "ip6 saddr", "meta l4proto", "th dport"), ("verdict",), True, ("interval",)),
        {(1, ALL6, "tcp", ALL_PORTS): "goto deny_in", (2, Range("fd00::", "fd00::ff"), "tcp", Range(1, 1)): "drop"},
    ),
    (SetDecl("cidr6", ("mark", "ipv6_addr"), flags=("interval",)), {(3, Range("fd00::1", "fd00::1")): ()}),
    (
        SetDecl("profile", ("mark", "inet_proto", "inet_service"), flags=("interval",)),
        {(2147483651, "tcp", Range(443, 443)): (), (2147483651, "udp", Range(1024, 2047)): (), (1, 58, ALL_PORTS): ()},
    ),
    (SetDecl("classid_range", ("classid", "ipv4_addr"), flags=("interval",)), {(0x10002, Range("1.1.1.1", "1.1.1.1")): ()}),
    (SetDecl("other", ("mark",), ("verdict",)), {(2147483651,): "return", (1,): "jump deny_in"}),
    (
        SetDecl("pins", ("ifname", "ether_addr", "ipv4_addr")),
        {("fw0123456789abc", "02:00:00:aa:bb:cc", "10.0.0.1"): ()},
    ),
    (
        SetDecl("pins_bridge", ("ifname", "ether_addr", "ipv6_addr"), table=BRIDGE),
        {("fw0", "02:00:00:aa:bb:cc", "fe80::1"): ()},
    ),
    (SetDecl("nd", ("iifname", "@th,64,128"), typeof=True), {("fw0", 0x20010DB8000000000000000000000001): ()}),
    (
        SetDecl("cidr", ("ipv4_addr",), flags=("interval",)),
        {
            (Range("0.0.0.0", "0.0.0.255"),): (),
            (Range("10.0.0.0", "10.0.0.7"),): (),
            (Range("10.0.0.8", "10.0.0.255"),): (),
            (Range("10.2.0.1", "10.2.0.1"),): (),
            (Range("255.0.0.0", "255.255.255.255"),): (),
        },
    ),
    (SetDecl("cidr_all6", ("ipv6_addr",), ("mark",), flags=("interval",)), {(ALL6,): (3,)}),
    (SetDecl("ports", ("inet_service",), flags=("interval",)), {(Range(22, 22),): (), (Range(443, 500),): ()}),
    (SetDecl("generation", ("nf_proto",), ("mark",)), {("ipv4",): (2,), ("ipv6",): (3,)}),
    (SetDecl("drained", ("ct mark", "ip daddr"), typeof=True), {(0x1000, "10.0.0.1"): ()}),
    (SetDecl("sized", ("mark",), ("ipv4_addr",), size=64), {(1,): ("10.0.0.1",)}),
    (SetDecl("stats", ("ct mark",), typeof=True, flags=("dynamic",), size=65536, counter=True), {}),
    (
        SetDecl("affinity", ("ip saddr", "ct mark"), ("ip daddr", "th dport"), True, ("dynamic", "timeout"), 1000, "1h30m"),
        {},
    ),
    (SetDecl("unsized", ("ip saddr",), typeof=True, flags=("dynamic",)), {}),
]
LAYOUT = Layout(tuple(decl for decl, _items in SHAPES), (DENY, Chain("deny_in", table=BRIDGE)))
IDS = [decl.name for decl, _items in SHAPES]


def only(decl: SetDecl) -> Layout:
    chain = Chain("deny_in", table=decl.table)
    return Layout((decl,), (chain,))


def elements_of(runner: NftRunner, decl: SetDecl) -> Items:
    state = runner.read(decl.table, only(decl))
    assert state is not None
    return {slot.key: value for slot, value in state.elements.items() if slot.set == decl.name}


def load(runner: NftRunner, decl: SetDecl, items: Items) -> None:
    tx = add_layout(only(decl), (decl.table,))
    runner.run(tx)
    if items:
        # By itself, so that the runner may take its short way for elements.
        runner.run(Transaction([AddElements(decl, tuple(items.items()))]))


def refusal(runner: NftRunner, *operations: object) -> int:
    with pytest.raises(KernelError) as caught:
        runner.run(Transaction(list(operations)))  # type: ignore[arg-type]
    return caught.value.errno


@pytest.mark.parametrize(("decl", "items"), SHAPES, ids=IDS)
def test_what_was_written_reads_back_equal_and_can_be_deleted(runner: NftRunner, decl: SetDecl, items: Items) -> None:
    load(runner, decl, items)
    state = runner.read(decl.table, only(decl))
    assert state is not None
    assert state.shapes[decl.name] == shape_of(decl)
    assert dict(state.elements) == {Slot(decl.name, key): value for key, value in items.items()}
    for key in items:
        runner.run(Transaction([DeleteElements(decl, (key,))]))
    assert elements_of(runner, decl) == {}


MAP = SetDecl("numbers", ("mark",), ("mark",), size=2)
VERDICTS = SetDecl("verdicts", ("mark",), ("verdict",))
CIDRS = SetDecl("cidrs", ("mark", "ipv4_addr"), flags=("interval",))
NETS = SetDecl("nets", ("ipv4_addr",), flags=("interval",))
BASE = Chain("base", ("jump side", "ip saddr @nets accept"), "type filter hook forward priority 0; policy accept;")
SIDE = Chain("side", ("counter accept",))
RULES = Layout((MAP, VERDICTS, CIDRS, NETS), (BASE, SIDE))


@pytest.fixture
def loaded(runner: NftRunner) -> NftRunner:
    runner.run(add_layout(RULES, (INET,)).add(AddElements(MAP, (((1,), (1,)),))))
    return runner


def test_a_missing_table_reads_as_none(runner: NftRunner) -> None:
    assert runner.read(INET, RULES) is None


def test_chains_and_sets_are_listed(loaded: NftRunner) -> None:
    state = loaded.read(INET, RULES)
    assert state is not None
    assert state.sets == {"numbers", "verdicts", "cidrs", "nets"}
    assert state.chains == {"base", "side"}
    assert len(state.chain_states["base"].rules) == 2
    assert state.chain_states["base"].base and not state.chain_states["side"].base
    assert loaded.read(INET, RULES, elements=False) == type(state)(
        state.sets, state.chains, {}, shapes=state.shapes, chain_states=state.chain_states
    )


def test_equal_tables_read_equal_and_a_touched_chain_does_not(loaded: NftRunner) -> None:
    before = loaded.read(INET, RULES)
    loaded.run(Transaction([FlushChain(SIDE), AddRules(SIDE)]))
    after = loaded.read(INET, RULES)
    assert before and after
    assert before.chain_states["base"] == after.chain_states["base"]
    assert before.chain_states["side"] != after.chain_states["side"]


def test_markers_are_read_as_hashes_not_as_chains(loaded: NftRunner) -> None:
    loaded.run(Transaction([AddChain(Chain("layout_0123456789abcdef")), AddChain(Chain("rules_fedcba9876543210"))]))
    state = loaded.read(INET, RULES)
    assert state
    assert (state.layout_hash, state.rules_hash) == ("0123456789abcdef", "fedcba9876543210")
    assert state.chains == {"base", "side"}


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ([AddElements(SetDecl("gone", ("mark",)), (((1,), ()),))], errno.ENOENT),
        ([DeleteElements(MAP, ((9,),))], errno.ENOENT),
        ([DeleteElements(NETS, ((Range("9.0.0.0", "9.0.0.9"),),))], errno.ENOENT),
        ([AddElements(MAP, (((1,), (2,)),))], errno.EEXIST),
        ([AddElements(MAP, (((2,), (2,)), ((3,), (2,))))], errno.ENFILE),
        ([AddElements(VERDICTS, (((1,), "goto nowhere"),))], errno.ENOENT),
        ([AddRules(Chain("side", ("jump nowhere",)))], errno.ENOENT),
        ([AddRules(Chain("side", ("ip saddr @nothing accept",)))], errno.ENOENT),
        ([AddRules(Chain("nowhere", ("accept",)))], errno.ENOENT),
        ([FlushChain(Chain("nowhere"))], errno.ENOENT),
        ([DeleteChain(Chain("nowhere"))], errno.ENOENT),
        ([DeleteChain(SIDE)], errno.EBUSY),
        ([AddElements(VERDICTS, (((1,), "goto side"),)), FlushChain(BASE), DeleteChain(SIDE)], errno.EBUSY),
        ([DeleteSet(NETS)], errno.EBUSY),
        ([DeleteSet(SetDecl("gone", ("mark",)))], errno.ENOENT),
        ([DeleteTable(Table("inet", "gone"))], errno.ENOENT),
        ([AddChain(Chain("x", table=Table("inet", "gone")))], errno.ENOENT),
        ([AddSet(SetDecl("numbers", ("ipv4_addr",)))], errno.EEXIST),
        ([AddChain(Chain("base", (), "type filter hook input priority 0; policy accept;"))], errno.EOPNOTSUPP),
    ],
)
def test_refusals(loaded: NftRunner, operations: list[object], wanted: int) -> None:
    assert refusal(loaded, *operations) == wanted


def test_overlapping_intervals_are_refused(loaded: NftRunner) -> None:
    for decl, head in ((CIDRS, (1,)), (NETS, ())):
        loaded.run(Transaction([AddElements(decl, (((*head, Range("10.0.0.0", "10.0.0.9")), ()),))]))
        for low, high in (("10.0.0.5", "10.0.0.12"), ("10.0.0.1", "10.0.0.2"), ("9.0.0.0", "10.0.0.3")):
            assert refusal(loaded, AddElements(decl, (((*head, Range(low, high)), ()),))) == errno.EEXIST
    # Of an interval that encloses another the kernel notices nothing in concatenated sets: compilers must cut (the fake does).
    assert refusal(loaded, AddElements(NETS, (((Range("9.0.0.0", "11.0.0.0"),), ()),))) == errno.EEXIST


def test_an_interval_can_be_cut_in_one_transaction(loaded: NftRunner) -> None:
    for decl, head in ((CIDRS, (1,)), (NETS, ())):
        whole = (*head, Range("10.0.0.0", "10.0.0.9"))
        parts = ((*head, Range("10.0.0.0", "10.0.0.4")), (*head, Range("10.0.0.5", "10.0.0.9")))
        loaded.run(Transaction([AddElements(decl, ((whole, ()),))]))
        cut = [DeleteElements(decl, (whole,)), AddElements(decl, tuple((part, ()) for part in parts))]
        loaded.run(Transaction([*cut]))
        assert set(elements_of(loaded, decl)) == set(parts)


def test_adding_the_same_element_again_is_no_error(loaded: NftRunner) -> None:
    same = AddElements(CIDRS, (((1, Range("10.0.0.0", "10.0.0.9")), ()),))
    loaded.run(Transaction([same, AddElements(MAP, (((1,), (1,)),))]))
    loaded.run(Transaction([same]))
    assert elements_of(loaded, MAP) == {(1,): (1,)}


def test_a_refused_transaction_changes_nothing(loaded: NftRunner) -> None:
    before = loaded.read(INET, RULES)
    operations = [AddElements(MAP, (((2,), (2,)),)), FlushChain(SIDE), AddChain(Chain("new")), DeleteElements(MAP, ((7,),))]
    assert refusal(loaded, *operations) == errno.ENOENT
    assert loaded.read(INET, RULES) == before


def test_a_value_is_swapped_by_delete_and_add(loaded: NftRunner) -> None:
    loaded.run(Transaction([DeleteElements(MAP, ((1,),)), AddElements(MAP, (((1,), (2,)),))]))
    assert elements_of(loaded, MAP) == {(1,): (2,)}


def test_a_set_can_be_made_anew_once_its_rules_are_flushed(loaded: NftRunner) -> None:
    other = SetDecl("nets", ("ipv6_addr",), flags=("interval",))
    loaded.run(Transaction([FlushChain(BASE), DeleteSet(NETS), AddSet(other)]))
    state = loaded.read(INET, RULES)
    assert state and state.shapes["nets"] == shape_of(other)


def test_a_base_chain_can_be_made_anew_with_another_hook(loaded: NftRunner) -> None:
    moved = Chain("base", ("jump side",), "type filter hook input priority 10; policy accept;")
    before = loaded.read(INET, RULES)
    loaded.run(Transaction([FlushChain(BASE), DeleteChain(BASE), AddChain(moved), AddRules(moved)]))
    after = loaded.read(INET, RULES)
    assert before and after and before.chain_states["base"].base != after.chain_states["base"].base


def test_deleting_the_table_removes_everything(loaded: NftRunner) -> None:
    loaded.run(Transaction([DeleteTable(INET), AddTable(INET)]))
    state = loaded.read(INET, RULES)
    assert state and not state.sets and not state.chains
